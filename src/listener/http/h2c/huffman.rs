//! The Huffman code of HPACK (RFC 7541, appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and longer
//! ones follow shorter ones. So the lengths alone are the table, and a code is decoded by its distance from
//! the first one of its length. Pure.

/// The symbol that must never be sent.
const END: usize = 256;

/// Longest code, in bits.
const LONGEST: usize = 30;

/// The length of each symbol's code, in bits.
const LENGTHS: [u8; END + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

/// The code, ordered for decoding.
struct Code {
    /// All symbols, in the order of their codes.
    symbols: [u16; END + 1],
    /// By length: the first code, how many there are, and where their symbols begin.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    start: [usize; LONGEST + 1],
}

static CODE: Code = Code::new();

impl Code {
    const fn new() -> Self {
        let mut code = Self {
            symbols: [0; END + 1],
            first: [0; LONGEST + 1],
            count: [0; LONGEST + 1],
            start: [0; LONGEST + 1],
        };
        let (mut length, mut next, mut at) = (1, 0, 0);
        while length <= LONGEST {
            code.first[length] = next;
            code.start[length] = at;
            let mut symbol: u16 = 0;
            while (symbol as usize) < LENGTHS.len() {
                if LENGTHS[symbol as usize] as usize == length {
                    code.symbols[at] = symbol;
                    at += 1;
                    code.count[length] += 1;
                }
                symbol += 1;
            }
            next = (next + code.count[length]) << 1;
            length += 1;
        }
        code
    }
}

/// The text that `bytes` encode; none if they are not the code of any.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    // The shortest code has 5 bits.
    let mut text = Vec::with_capacity(bytes.len() * 8 / 5);
    let (mut code, mut length) = (0_u32, 0_usize);
    for byte in bytes {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            length += 1;
            let distance = code.wrapping_sub(CODE.first[length]);
            if distance < CODE.count[length] {
                let symbol = CODE.symbols[CODE.start[length] + distance as usize];
                text.push(u8::try_from(symbol).ok()?);
                (code, length) = (0, 0);
            } else if length == LONGEST {
                return None;
            }
        }
    }
    // What fills the last byte is the start of the end symbol: ones, less than a byte of them.
    (length < 8 && code == (1 << length) - 1).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_complete() {
        let total: u64 = LENGTHS
            .iter()
            .map(|length| 1 << (LONGEST - usize::from(*length)))
            .sum();
        assert_eq!(total, 1 << LONGEST);
    }

    /// Codes of appendix B, the first and last of their lengths among them.
    #[test]
    fn symbols_have_the_codes_of_the_rfc() {
        for (symbol, code, length) in [
            (b'0', 0x0_u32, 5_usize),
            (b't', 0x9, 5),
            (b' ', 0x14, 6),
            (b':', 0x5c, 7),
            (b'&', 0xf8, 8),
            (b'!', 0x3f8, 10),
            (0, 0x1ff8, 13),
            (b'\\', 0x7fff0, 19),
            (199, 0x1ff_ffec, 25),
            (255, 0x3ff_ffee, 26),
            (2, 0xfff_ffe2, 28),
            (22, 0x3fff_fffe, 30),
        ] {
            let bits: u64 = u64::from(code) << (64 - length) | u64::MAX >> length;
            let bytes = bits.to_be_bytes();
            let needed = length.div_ceil(8);
            assert_eq!(decode(&bytes[..needed]), Some(vec![symbol]), "{symbol}");
        }
    }

    #[test]
    fn refuses_the_end_symbol_and_wrong_or_long_padding() {
        assert_eq!(decode(&[]), Some(Vec::new()));
        assert_eq!(decode(&[0xff; 4]), None, "the end symbol");
        assert_eq!(decode(&[0xff]), None, "eight bits of padding");
        assert_eq!(decode(&[0x07]), Some(b"0".to_vec()));
        assert_eq!(decode(&[0x06]), None, "padding that is not ones");
    }
}
