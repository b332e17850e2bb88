//! What a failed socket call means: the refusal's code, and words without errno numbers.
//!
//! One place for both, so that both programs speak alike wherever they dial, listen or relay.

use std::io::{self, ErrorKind};

use rustix::io::Errno;
use tunnel_wire::RefusalCode;

/// The code for a failed socket call.
#[must_use]
pub fn code(error: &io::Error) -> RefusalCode {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED) => RefusalCode::ConnectionRefused,
        Some(Errno::TIMEDOUT) => RefusalCode::TimedOut,
        Some(
            Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::HOSTDOWN | Errno::AFNOSUPPORT,
        ) => RefusalCode::Unreachable,
        // A missing source address is one too: the ports for that upstream are used up.
        Some(Errno::MFILE | Errno::NOBUFS | Errno::ADDRNOTAVAIL) => RefusalCode::ResourceExhausted,
        // Winsock has no numbers for these two.
        #[cfg(not(windows))]
        Some(Errno::NFILE | Errno::NOMEM) => RefusalCode::ResourceExhausted,
        Some(Errno::ADDRINUSE) => RefusalCode::AddressInUse,
        // A deadline of ours.
        None if error.kind() == ErrorKind::TimedOut => RefusalCode::TimedOut,
        Some(_) | None => RefusalCode::Other,
    }
}

/// The error as a lower-case fragment for people.
#[must_use]
pub fn words(error: &io::Error) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other kinds say less than the error itself"
    )]
    match error.kind() {
        kind @ (ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::AddrInUse
        | ErrorKind::AddrNotAvailable
        | ErrorKind::BrokenPipe
        | ErrorKind::TimedOut
        | ErrorKind::PermissionDenied) => kind.to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_words_of_the_usual_failures() {
        for (errno, expected, text) in [
            (
                Errno::CONNREFUSED,
                RefusalCode::ConnectionRefused,
                "connection refused",
            ),
            (Errno::HOSTUNREACH, RefusalCode::Unreachable, "host unreachable"),
            (Errno::NETUNREACH, RefusalCode::Unreachable, "network unreachable"),
            (Errno::TIMEDOUT, RefusalCode::TimedOut, "timed out"),
            (Errno::ADDRINUSE, RefusalCode::AddressInUse, "address in use"),
            (Errno::CONNRESET, RefusalCode::Other, "connection reset"),
        ] {
            let error = io::Error::from(errno);
            assert_eq!((code(&error), words(&error).as_str()), (expected, text));
        }
        assert_eq!(code(&ErrorKind::TimedOut.into()), RefusalCode::TimedOut);
        assert_eq!(code(&Errno::MFILE.into()), RefusalCode::ResourceExhausted);
        assert!(
            words(&Errno::MFILE.into()).contains("os error 24"),
            "the number is better than no word at all"
        );
    }
}
