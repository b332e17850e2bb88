//! Resource quantities (`10m`, `256Mi`, `1e3`): enough of Kubernetes' grammar to refuse a typing
//! error early and to tell which of two is larger.
//!
//! Quantities are passed on as they were written; nothing here rewrites them.

use std::cmp::Ordering;

/// Suffixes and their factors; two-letter ones first.
const SUFFIXES: [(&str, f64); 15] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];

/// The number a quantity stands for, or `None` when it is none. Never negative.
pub fn parse(text: &str) -> Option<f64> {
    // `1E` is an exa suffix and `1E3` an exponent, so a plain number goes first.
    if let Some(number) = number(text) {
        return Some(number);
    }
    SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some(number(text.strip_suffix(suffix)?)? * factor))
}

/// Orders two quantities; `None` when one of them cannot be read.
pub fn compare(a: &str, b: &str) -> Option<Ordering> {
    parse(a)?.partial_cmp(&parse(b)?)
}

/// Rust's float grammar also takes `inf` and `nan`; a quantity has digits only.
fn number(text: &str) -> Option<f64> {
    if !text
        .bytes()
        .all(|b| matches!(b, b'0'..=b'9' | b'.' | b'+' | b'-' | b'e' | b'E'))
    {
        return None;
    }
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_across_suffixes() {
        assert_eq!(compare("10m", "0.01"), Some(Ordering::Equal));
        assert_eq!(compare("256Mi", "128Mi"), Some(Ordering::Greater));
        assert_eq!(compare("1G", "1Gi"), Some(Ordering::Less));
        assert_eq!(compare("1E3", "1000"), Some(Ordering::Equal));
        assert_eq!(compare("1E", "1e18"), Some(Ordering::Equal));
    }

    #[test]
    fn refuses_what_is_none() {
        for text in ["", "m", "10mm", "-1", "inf", "nan", "1 Gi", "0x10"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
