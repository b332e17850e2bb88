//! Where the payload of binary WebSocket messages lies in a byte stream that is cut anywhere.
//!
//! Masks do not matter: an altered masked byte is an altered byte behind the mask.

const OPCODE: u8 = 0x0f;
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const MASKED: u8 = 0x80;

/// One direction of an upgraded connection.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The header so far, when the next byte belongs to one.
    header: Vec<u8>,
    /// Payload still to come in this frame.
    left: u64,
    /// This frame's payload belongs to a binary message.
    binary: bool,
    /// Nothing of this message's payload has come.
    first: bool,
}

impl Frames {
    /// Hands every part of a binary message's payload in these bytes to `part`, and whether it begins the message.
    pub(crate) fn binary(&mut self, bytes: &mut [u8], mut part: impl FnMut(&mut [u8], bool)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.left == 0 {
                self.header.push(rest[0]);
                rest = &mut rest[1..];
                self.read_header();
                continue;
            }
            let count = rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let (payload, behind) = rest.split_at_mut(count);
            if self.binary {
                part(payload, self.first);
                self.first = false;
            }
            self.left -= count as u64;
            rest = behind;
        }
    }

    /// Understands the header once it is whole; a frame without payload is over with it.
    fn read_header(&mut self) {
        let [first, second, behind @ ..] = self.header.as_slice() else {
            return;
        };
        let extended = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        if behind.len() < extended + mask {
            return;
        }
        self.left = match extended {
            0 => u64::from(second & !MASKED),
            count => behind[..count]
                .iter()
                .fold(0, |left, byte| left << 8 | u64::from(*byte)),
        };
        // Control frames may come between the frames of a message.
        match first & OPCODE {
            CONTINUATION => {}
            opcode => {
                self.binary = opcode == BINARY;
                self.first = true;
            }
        }
        self.header.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_found_however_the_stream_is_cut() {
        let mut stream = vec![0x82, 3, 1, b'a', b'b'];
        stream.extend([0x89, 0]);
        stream.extend([0x82, 0xfe, 1, 0, 9, 9, 9, 9]);
        stream.extend([7; 256]);
        stream.extend([0x81, 2, b'n', b'o']);
        stream.extend([0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 5]);
        for size in [1, 2, 3, 7, 1000] {
            let (mut frames, mut found, mut messages) = (Frames::default(), Vec::new(), 0);
            for part in stream.clone().chunks_mut(size) {
                frames.binary(part, |payload, first| {
                    found.extend_from_slice(payload);
                    messages += u32::from(first);
                });
            }
            assert_eq!(
                found,
                [&[1, b'a', b'b'][..], &[7; 256], &[5]].concat(),
                "parts of {size}"
            );
            assert_eq!(messages, 3);
        }
    }
}
