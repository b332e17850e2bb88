//! A hosts-format table that is consulted before the resolver: `IP name [name...]` a line, `#` starts a comment.
//!
//! It exists for the playground, whose pods have names that no name service knows. It does no I/O; `config`
//! names the file, the binary reads it, `resolve` asks it.

use std::net::IpAddr;

/// The table, in the order of the file. A name may have several addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    entries: Vec<(String, IpAddr)>,
}

/// A line that is not `IP name [name...]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number} of the hosts file is not 'IP name [name...]': {line}")]
pub struct ParseHostsError {
    /// Counted from 1.
    pub number: usize,
    /// The line as it is.
    pub line: String,
}

impl Hosts {
    /// Parses the text of a hosts file.
    pub fn parse(text: &str) -> Result<Self, ParseHostsError> {
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(address) = words.next() else { continue };
            let invalid = || ParseHostsError {
                number: index + 1,
                line: line.into(),
            };
            let address: IpAddr = address.parse().map_err(|_| invalid())?;
            let names = entries.len();
            entries.extend(words.map(|name| (key(name), address)));
            if entries.len() == names {
                return Err(invalid());
            }
        }
        Ok(Self { entries })
    }

    /// All addresses of `name`; none when the table does not know it. Case and a final dot do not matter.
    pub fn lookup(&self, name: &str) -> Vec<IpAddr> {
        let name = key(name);
        self.entries
            .iter()
            .filter(|(known, _)| *known == name)
            .map(|(_, address)| *address)
            .collect()
    }
}

fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn finds_every_address_of_a_name_in_order() {
        let hosts =
            Hosts::parse("# pods\n127.8.0.1 web web.dev\n\n::1\tweb # six\n127.8.0.2   db\n").unwrap();
        assert_eq!(hosts.lookup("web"), addresses(&["127.8.0.1", "::1"]));
        assert_eq!(hosts.lookup("WEB.dev."), addresses(&["127.8.0.1"]));
        assert_eq!(hosts.lookup("db"), addresses(&["127.8.0.2"]));
        assert_eq!(hosts.lookup("we"), addresses(&[]));
    }

    #[test]
    fn an_invalid_line_is_named() {
        for (text, number) in [
            ("127.8.0.1 web\nweb 127.8.0.1\n", 2),
            ("127.8.0.1\n", 1),
            ("127.8.0.1 # web", 1),
        ] {
            let error = Hosts::parse(text).unwrap_err();
            assert_eq!(error.number, number, "{text}");
        }
    }
}
