//! What must hold whatever bytes arrive: the bodies of the fuzz targets, which a plain test shares.

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tunnel_wire::datagram::{self, Record};
use tunnel_wire::frame::{Frame, MAX_FRAME};
use tunnel_wire::hello::Hello;
use tunnel_wire::link::Link;
use tunnel_wire::message::Decoder;

/// Decodes a flow's records from pieces. All that decodes came from the input, and encodes to no more.
pub(crate) fn datagram(bytes: &[u8]) {
    let mut input = BytesMut::new();
    let mut encoded = BytesMut::new();
    for piece in pieces(bytes) {
        input.extend_from_slice(piece);
        loop {
            match datagram::decode(&mut input) {
                Ok(Some(Record::Datagram(datagram))) => datagram::encode(&datagram, &mut encoded),
                Ok(Some(Record::Notice(refusal))) => datagram::encode_notice(&refusal, &mut encoded),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(encoded.len() + input.len() <= bytes.len());
    }
}

/// Decodes frames until the bytes are used up or nonsense. What decodes encodes to the same bytes.
pub(crate) fn frame(bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    loop {
        let before = input.clone();
        let Ok(Some(frame)) = Frame::decode(&mut input) else {
            break;
        };
        let mut again = BytesMut::new();
        frame.encode(&mut again);
        assert_eq!(again[..], before[..before.len() - input.len()], "{frame:?}");
    }
    assert!(
        input.capacity() <= bytes.len() + MAX_FRAME,
        "a length alone must not take memory"
    );
}

/// Decodes a hello. What decodes encodes to the same bytes, unless the software's name was no text.
pub(crate) fn hello(bytes: &[u8]) {
    if let Ok(hello) = Hello::decode(bytes)
        && !hello.software.contains(char::REPLACEMENT_CHARACTER)
    {
        assert_eq!(hello.encode()[..], *bytes);
    }
}

/// Decodes messages from pieces whose lengths the bytes choose themselves. All that decodes came from the input.
pub(crate) fn message(bytes: &[u8]) {
    let mut decoder = Decoder::default();
    let mut encoded = 0;
    for piece in pieces(bytes) {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.decode() {
                Ok(Some(message)) => {
                    let mut again = BytesMut::new();
                    message.encode(&mut again);
                    encoded += again.len();
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(encoded <= bytes.len());
}

/// Gives a link that has sent something anything, in any pieces. It keeps no more than came, and what it has to
/// say stays small.
pub(crate) fn link(bytes: &[u8]) {
    let now = Instant::now();
    let mut link = Link::new(now);
    link.write(&[7; 100]);
    link.start_probe();
    // The data and the first frame of the probe.
    link.take_frames(&mut BytesMut::new(), 200, now);
    for piece in pieces(bytes) {
        // A transport that ended is not read on; whatever is read all the same must do no harm either.
        drop(link.on_bytes(&mut BytesMut::from(piece), now));
        assert!(link.progress().received <= bytes.len() as u64);
        assert!(link.progress().acknowledged <= 100);
    }
    let mut out = BytesMut::new();
    link.take_frames(&mut out, MAX_FRAME, now);
    assert!(
        out.len() <= bytes.len() + 2 * MAX_FRAME,
        "{} bytes to say",
        out.len()
    );
    let mut read = vec![0; bytes.len() + 1];
    assert_eq!(link.read(&mut read) as u64, link.progress().received);
}

/// The bytes, cut where they say themselves: the first one seeds the lengths of the pieces.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut state = bytes.first().copied().unwrap_or(0);
    std::iter::from_fn(move || {
        state = state.wrapping_mul(109).wrapping_add(89);
        let length = match state % 4 {
            0 => 1,
            1 => usize::from(state),
            _ => rest.len(),
        };
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}
