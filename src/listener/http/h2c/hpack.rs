//! Decodes the header blocks of HTTP/2 (HPACK, RFC 7541).
//!
//! For the first block of a connection only: its fields are looked at and the bytes passed on, so nothing is
//! ever encoded. What a block can make of itself is bounded: an index of one byte can stand for 4 KiB.
//! Pure; the code for strings is in `huffman`.

use std::collections::VecDeque;

use super::huffman;

/// Largest table that a program may use before it heard of another size, in bytes.
const TABLE_SIZE: usize = 4096;

/// What an entry counts besides its name and value (RFC 7541, 4.1).
const OVERHEAD: usize = 32;

/// Most that the fields of a block may come to, in bytes; as the head of HTTP/1.
const MAX_FIELDS: usize = 64 * 1024;

/// A name and a value.
pub(super) type Field = (Vec<u8>, Vec<u8>);

/// A block that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HpackError {
    /// It ends inside a field.
    #[error("the header block is cut short")]
    Short,
    /// An index that nothing stands at.
    #[error("the header block names a field that is not there")]
    Index,
    /// A number beyond all bounds.
    #[error("a number in the header block is too large")]
    Number,
    /// Bytes that are not the code of a text.
    #[error("a text in the header block is not coded properly")]
    Huffman,
    /// A table size that was not allowed, or at a place where it cannot be.
    #[error("the header block sets a table size that it may not")]
    TableSize,
    /// More fields than anybody needs.
    #[error("the headers are longer than {MAX_FIELDS} bytes")]
    TooLong,
}

/// Decodes the blocks of one connection.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest entry first.
    table: VecDeque<Field>,
    size: usize,
    max_size: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            max_size: TABLE_SIZE,
        }
    }
}

impl Decoder {
    /// The fields of one whole block.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, HpackError> {
        let mut input = Input(block);
        let mut fields: Vec<Field> = Vec::new();
        let mut total = 0;
        while let Some(first) = input.peek() {
            let field = if first & 0x80 != 0 {
                self.entry(input.number(7)?)?
            } else if first & 0xe0 == 0x20 {
                if !fields.is_empty() {
                    return Err(HpackError::TableSize);
                }
                self.resize(input.number(5)?)?;
                continue;
            } else {
                let indexed = first & 0x40 != 0;
                let field = self.literal(&mut input, if indexed { 6 } else { 4 })?;
                if indexed {
                    self.add(field.clone());
                }
                field
            };
            total += size(&field);
            if total > MAX_FIELDS {
                return Err(HpackError::TooLong);
            }
            fields.push(field);
        }
        Ok(fields)
    }

    fn literal(&self, input: &mut Input<'_>, bits: u8) -> Result<Field, HpackError> {
        let name = match input.number(bits)? {
            0 => input.text()?,
            index => self.entry(index)?.0,
        };
        Ok((name, input.text()?))
    }

    /// What stands at an index of the static table, and behind it the dynamic one.
    fn entry(&self, index: usize) -> Result<Field, HpackError> {
        let index = index.checked_sub(1).ok_or(HpackError::Index)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
        let entry = self.table.get(index - STATIC.len());
        entry.cloned().ok_or(HpackError::Index)
    }

    fn add(&mut self, field: Field) {
        self.size += size(&field);
        self.table.push_front(field);
        // An entry larger than the table empties it (RFC 7541, 4.4).
        self.evict();
    }

    fn resize(&mut self, max_size: usize) -> Result<(), HpackError> {
        if max_size > TABLE_SIZE {
            return Err(HpackError::TableSize);
        }
        self.max_size = max_size;
        self.evict();
        Ok(())
    }

    fn evict(&mut self) {
        while self.size > self.max_size {
            let Some(oldest) = self.table.pop_back() else {
                return;
            };
            self.size -= size(&oldest);
        }
    }
}

fn size(field: &Field) -> usize {
    field.0.len() + field.1.len() + OVERHEAD
}

/// What of a block was not read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn byte(&mut self) -> Result<u8, HpackError> {
        let (&byte, rest) = self.0.split_first().ok_or(HpackError::Short)?;
        self.0 = rest;
        Ok(byte)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], HpackError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(HpackError::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// A number whose first bits are the last ones of a byte (RFC 7541, 5.1).
    fn number(&mut self, bits: u8) -> Result<usize, HpackError> {
        let all = (1_usize << bits) - 1;
        let first = usize::from(self.byte()?) & all;
        if first < all {
            return Ok(first);
        }
        let mut number = all;
        // Three groups of seven bits are far above what a block can hold.
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(HpackError::Number)
    }

    fn text(&mut self) -> Result<Vec<u8>, HpackError> {
        let coded = self.peek().ok_or(HpackError::Short)? & 0x80 != 0;
        let length = self.number(7)?;
        let bytes = self.bytes(length)?;
        if coded {
            huffman::decode(bytes).ok_or(HpackError::Huffman)
        } else {
            Ok(bytes.to_vec())
        }
    }
}

/// RFC 7541, appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    fn text(fields: &[Field]) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        fields
            .iter()
            .map(|(name, value)| format!("{} = {}", text(name), text(value)))
            .collect()
    }

    /// Decodes the blocks of one connection; the table's size after each is compared too.
    fn connection(mut decoder: Decoder, blocks: &[(&str, &[&str], usize)]) {
        for (hex, fields, size) in blocks {
            assert_eq!(text(&decoder.decode(&bytes(hex)).unwrap()), *fields, "{hex}");
            assert_eq!(decoder.size, *size, "{hex}");
        }
    }

    /// RFC 7541, C.2.
    #[test]
    fn one_field_in_each_form() {
        for (hex, field, size) in [
            (
                "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
                "custom-key = custom-header",
                55,
            ),
            ("040c 2f73 616d 706c 652f 7061 7468", ":path = /sample/path", 0),
            (
                "1008 7061 7373 776f 7264 0673 6563 7265 74",
                "password = secret",
                0,
            ),
            ("82", ":method = GET", 0),
        ] {
            connection(Decoder::default(), &[(hex, &[field], size)]);
        }
    }

    const REQUESTS: [&[&str]; 3] = [
        &[
            ":method = GET",
            ":scheme = http",
            ":path = /",
            ":authority = www.example.com",
        ],
        &[
            ":method = GET",
            ":scheme = http",
            ":path = /",
            ":authority = www.example.com",
            "cache-control = no-cache",
        ],
        &[
            ":method = GET",
            ":scheme = https",
            ":path = /index.html",
            ":authority = www.example.com",
            "custom-key = custom-value",
        ],
    ];

    /// RFC 7541, C.3 and C.4.
    #[test]
    fn requests_with_and_without_huffman() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let coded = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, coded] {
            let sizes = [57, 110, 164];
            let blocks: Vec<_> = (0..3).map(|at| (blocks[at], REQUESTS[at], sizes[at])).collect();
            connection(Decoder::default(), &blocks);
        }
    }

    /// RFC 7541, C.6: a table of 256 bytes evicts.
    #[test]
    fn a_small_table_forgets_the_oldest() {
        let mut decoder = Decoder::default();
        decoder.resize(256).unwrap();
        connection(
            decoder,
            &[
                (
                    "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                    &[
                        ":status = 302",
                        "cache-control = private",
                        "date = Mon, 21 Oct 2013 20:13:21 GMT",
                        "location = https://www.example.com",
                    ],
                    222,
                ),
                (
                    "4883 640e ffc1 c0bf",
                    &[
                        ":status = 307",
                        "cache-control = private",
                        "date = Mon, 21 Oct 2013 20:13:21 GMT",
                        "location = https://www.example.com",
                    ],
                    222,
                ),
                (
                    "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                    &[
                        ":status = 200",
                        "cache-control = private",
                        "date = Mon, 21 Oct 2013 20:13:22 GMT",
                        "location = https://www.example.com",
                        "content-encoding = gzip",
                        "set-cookie = foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                    ],
                    215,
                ),
            ],
        );
    }

    #[test]
    fn refuses_what_breaks_the_rules() {
        for (hex, error) in [
            ("80", HpackError::Index),
            ("be", HpackError::Index),
            ("ff", HpackError::Short),
            ("41", HpackError::Short),
            ("4103 61", HpackError::Short),
            ("ff80 8080 8000", HpackError::Number),
            ("4181 06", HpackError::Huffman),
            ("3fe2 1f", HpackError::TableSize),
            ("8220", HpackError::TableSize),
        ] {
            assert_eq!(Decoder::default().decode(&bytes(hex)), Err(error), "{hex}");
        }
        assert_eq!(
            Decoder::default().decode(&bytes("3fe1 1f82")).unwrap().len(),
            1,
            "4096 is allowed"
        );
    }

    #[test]
    fn one_byte_cannot_become_many() {
        // An entry of 3,000 bytes, then references to it.
        let mut block = vec![0x40, 1, b'a', 0x7f, 0xb9, 0x16];
        block.resize(block.len() + 3000, b'x');
        assert_eq!(Decoder::default().decode(&block).unwrap()[0].1.len(), 3000);
        block.resize(block.len() + 10_000, 0xbe);
        assert_eq!(Decoder::default().decode(&block), Err(HpackError::TooLong));
    }

    proptest! {
        #[test]
        fn never_panics_and_stays_in_bounds(block in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::default();
            drop(decoder.decode(&block));
            prop_assert!(decoder.size <= TABLE_SIZE);
            prop_assert_eq!(decoder.size, decoder.table.iter().map(size).sum::<usize>());
        }
    }
}
