//! The playground's time: what its objects are stamped with and what its `Date` header says.
//!
//! It can run ahead of or behind the machine's clock, so that a test sees whether somebody
//! compares the API server's time with the laptop's. It never sleeps; the controllers do.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A clock with a fixed offset from the machine's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    offset: SignedDuration,
}

impl Clock {
    pub(crate) fn new(offset: SignedDuration) -> Self {
        Self { offset }
    }

    pub(crate) fn now(self) -> Timestamp {
        Timestamp::now()
            .saturating_add(self.offset)
            .unwrap_or(Timestamp::MAX)
    }

    /// Now as Kubernetes writes it: whole seconds, `Z`.
    pub(crate) fn stamp(self) -> String {
        stamp(self.now())
    }

    /// Now as the `Date` header of a response.
    pub(crate) fn http_date(self) -> String {
        self.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    /// How long until `seconds` after the stamp `since`; zero when that has passed.
    /// A stamp that cannot be read counts as now.
    pub(crate) fn until(self, since: &str, seconds: i64) -> Duration {
        let now = self.now();
        let start: Timestamp = since.parse().unwrap_or(now);
        let left = start
            .duration_since(now)
            .saturating_add(SignedDuration::from_secs(seconds));
        Duration::try_from(left).unwrap_or(Duration::ZERO)
    }
}

pub(crate) fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_counts_from_the_stamp_and_never_below_zero() {
        let clock = Clock::new(SignedDuration::from_hours(5));
        let stamp = clock.stamp();
        let left = clock.until(&stamp, 60);
        assert!(
            left > Duration::from_secs(57) && left <= Duration::from_secs(60),
            "{left:?}"
        );
        assert_eq!(clock.until(&stamp, -60), Duration::ZERO);
    }

    #[test]
    fn the_date_header_has_the_form_of_http() {
        let date = Clock::new(SignedDuration::ZERO).http_date();
        assert_eq!(date.len(), "Sun, 06 Nov 1994 08:49:37 GMT".len(), "{date}");
        assert!(date.ends_with(" GMT"), "{date}");
    }
}
