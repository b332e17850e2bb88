//! Durations as kubectl's flags take them: Go's `1h2m3s`, or a plain number of seconds.
//!
//! Pure parsing for clap's `value_parser`. It decides no default and does not know which flag it serves.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing, or no digit where a number must start.
    #[error("not a duration; use a form like 5s, 1m30s or 2h")]
    Invalid,
    /// A number without its unit, in a place where seconds cannot be meant.
    #[error("missing unit; use one of ns, us, ms, s, m, h")]
    MissingUnit,
    /// A unit that Go does not have.
    #[error("unknown unit `{0}`; use one of ns, us, ms, s, m, h")]
    UnknownUnit(String),
    /// Below zero.
    #[error("a duration cannot be negative")]
    Negative,
    /// More than Go's 290 years.
    #[error("the duration is too long")]
    TooLong,
}

/// Parses `--request-timeout` and its kin: a plain number is seconds, `0` is zero (by kubectl's convention: no
/// limit), everything else is [`parse_duration`].
pub fn parse_timeout(text: &str) -> Result<Duration, DurationError> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds: u64 = text.parse().map_err(|_| DurationError::TooLong)?;
        return from_nanos(u128::from(seconds) * 1_000_000_000);
    }
    parse_duration(text)
}

/// Parses Go's `time.ParseDuration` form, without a sign: numbers with an optional fraction, each followed by its
/// unit, such as `300ms`, `1.5h` or `2h45m`. Only `0` needs no unit.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if unsigned.starts_with('-') {
        return Err(DurationError::Negative);
    }
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = unsigned;
    let mut nanos: u128 = 0;
    if rest.is_empty() {
        return Err(DurationError::Invalid);
    }
    while !rest.is_empty() {
        let (part, after) = next_part(rest)?;
        nanos = nanos.checked_add(part).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    from_nanos(nanos)
}

/// One `number unit` from the start of `text`, in nanoseconds, and what follows it.
fn next_part(text: &str) -> Result<(u128, &str), DurationError> {
    let (whole, rest) = take_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => take_digits(after),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::Invalid);
    }
    let unit_end = rest
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    let scale: u128 = match unit {
        "" => return Err(DurationError::MissingUnit),
        "ns" => 1,
        // The letter mu comes as U+00B5 (micro sign) or U+03BC (Greek mu).
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        other => return Err(DurationError::UnknownUnit(other.to_owned())),
    };
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| DurationError::TooLong)?
    };
    let mut nanos = whole.checked_mul(scale).ok_or(DurationError::TooLong)?;
    // Digits beyond the nanosecond change nothing, so the loop ends with the scale.
    let mut digit_scale = scale;
    for digit in fraction.bytes() {
        digit_scale /= 10;
        if digit_scale == 0 {
            break;
        }
        nanos += u128::from(digit - b'0') * digit_scale;
    }
    Ok((nanos, after))
}

fn take_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Go counts nanoseconds in an `i64`; a longer duration is an error there, and so here.
fn from_nanos(nanos: u128) -> Result<Duration, DurationError> {
    let nanos = i64::try_from(nanos).map_err(|_| DurationError::TooLong)?;
    Ok(Duration::from_nanos(nanos.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_as_kubectl_takes_them() {
        let cases = [
            ("0", Duration::ZERO),
            ("30", Duration::from_secs(30)),
            ("0s", Duration::ZERO),
            ("5s", Duration::from_secs(5)),
            ("1m30s", Duration::from_secs(90)),
            ("1h2m3s", Duration::from_secs(3723)),
            ("300ms", Duration::from_millis(300)),
            ("1.5h", Duration::from_secs(5400)),
            (".5s", Duration::from_millis(500)),
            ("2.s", Duration::from_secs(2)),
            ("7\u{b5}s", Duration::from_micros(7)),
            ("7us3ns", Duration::from_nanos(7003)),
            ("1.0000000001s", Duration::from_secs(1)),
            ("+2s", Duration::from_secs(2)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        let cases = [
            ("", DurationError::Invalid),
            ("s", DurationError::Invalid),
            (".", DurationError::Invalid),
            ("five", DurationError::Invalid),
            ("-5s", DurationError::Negative),
            ("1m30", DurationError::MissingUnit),
            ("1.5", DurationError::MissingUnit),
            ("5 s", DurationError::UnknownUnit(" s".to_owned())),
            ("1d", DurationError::UnknownUnit("d".to_owned())),
            ("99999999999", DurationError::TooLong),
            (
                "99999999999999999999999999999999999999999h",
                DurationError::TooLong,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_plain_number_is_seconds_only_for_timeouts() {
        assert_eq!(parse_duration("30"), Err(DurationError::MissingUnit));
    }
}
