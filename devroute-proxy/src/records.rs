//! The record of reroutes: what happened to the last requests that were to be rerouted here.
//!
//! It answers "did my request reach my laptop, and if not, why?" without a log search, and by `$id`
//! for a whole test run. It holds the last [`CAPACITY`] requests whose contract named this service
//! and that were rerouted, refused, or failed; the oldest goes first. It lives in memory: a restart
//! empties it.
//!
//! ```
//! use devroute_proxy::records::{Record, Records};
//!
//! let records = Records::default();
//! let mut record = Record::now("rerouted");
//! record.id = Some("run-7".into());
//! records.push(record);
//!
//! assert_eq!(records.latest(Some("run-7")).len(), 1);
//! assert_eq!(records.latest(Some("another")).len(), 0);
//! ```

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

/// How many records are kept.
pub const CAPACITY: usize = 1024;

/// One request that was to be rerouted.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Record {
    /// When its answer began; RFC 3339 with milliseconds, in UTC.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// Where it came in.
    pub direction: Direction,
    /// The test run that its contract names (`$id`).
    pub id: Option<String>,
    /// The service it was for.
    pub service: Option<String>,
    /// The target that its contract names for the service.
    pub target: Option<String>,
    /// Who signed its contract, where signatures are asked for.
    pub signed_by: Option<String>,
    /// The status of the answer; 499 where the client went away before there was one, as nginx has it.
    pub status: u16,
    /// Milliseconds until the answer began.
    pub ms: f64,
    /// The trace it belongs to, as `traceparent` named it.
    pub trace_id: Option<String>,
    /// `rerouted`, `fallback`, `refused`, `failed`, or `abandoned` by the client before the answer
    /// began.
    pub outcome: &'static str,
    /// Why it was not rerouted.
    pub cause: Option<Cow<'static, str>>,
    /// Why an answer that had begun was not sent to its end: `client_gone`, or `cut` where it broke
    /// off at the target.
    pub ended: Option<&'static str>,
}

impl Record {
    /// An otherwise empty record of this moment.
    #[must_use]
    pub fn now(outcome: &'static str) -> Self {
        Self {
            time: SystemTime::now(),
            direction: Direction::Inbound,
            id: None,
            service: None,
            target: None,
            signed_by: None,
            status: 0,
            ms: 0.0,
            trace_id: None,
            outcome,
            cause: None,
            ended: None,
        }
    }

    /// The time as RFC 3339 writes it.
    #[must_use]
    pub fn timestamp(&self) -> String {
        format_time(self.time)
    }
}

/// Which listener a request came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Direction {
    /// The one for traffic to the service.
    Inbound,
    /// The one for the service's own requests.
    Outbound,
}

impl Direction {
    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// The last records of a process.
#[derive(Debug, Default)]
pub struct Records {
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<Record>,
    /// How many were forgotten, which is the number of the first one that is there.
    forgotten: u64,
}

impl Records {
    /// Keeps `record`, and forgets the oldest one where there is no room. Returns its number.
    pub fn push(&self, record: Record) -> u64 {
        let mut ring = self.lock();
        if ring.records.len() >= CAPACITY {
            ring.records.pop_front();
            ring.forgotten += 1;
        }
        let number = ring.forgotten + ring.records.len() as u64;
        ring.records.push_back(record);
        number
    }

    /// Notes why the answer of a record was not sent to its end; returns the record, if it is still
    /// there.
    pub(crate) fn ended(&self, number: u64, why: &'static str) -> Option<Record> {
        let mut ring = self.lock();
        let index = usize::try_from(number.checked_sub(ring.forgotten)?).ok()?;
        let record = ring.records.get_mut(index)?;
        record.ended = Some(why);
        Some(record.clone())
    }

    /// The records, newest first; only those of one test run where `id` is given.
    #[must_use]
    pub fn latest(&self, id: Option<&str>) -> Vec<Record> {
        let wanted = |record: &&Record| id.is_none() || record.id.as_deref() == id;
        let ring = self.lock();
        ring.records.iter().rev().filter(wanted).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_time(*time))
}

pub(crate) fn format_time(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millisecond = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// The Gregorian date so many days after 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last day of a year, and in eras of 400
/// years, which all have the same number of days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let records = Records::default();
        for index in 0..=CAPACITY {
            let mut record = Record::now("rerouted");
            record.id = Some(index.to_string());
            records.push(record);
        }
        let latest = records.latest(None);
        assert_eq!(latest.len(), CAPACITY);
        assert_eq!(latest[0].id, Some(CAPACITY.to_string()));
        assert_eq!(latest[CAPACITY - 1].id.as_deref(), Some("1"));
    }

    #[test]
    fn the_end_of_an_answer_is_noted_as_long_as_its_record_is_there() {
        let records = Records::default();
        let first = records.push(Record::now("rerouted"));
        let second = records.push(Record::now("rerouted"));
        records.ended(second, "cut").unwrap();
        let ended = |index: usize| records.latest(None)[index].ended;
        assert_eq!((ended(0), ended(1)), (Some("cut"), None));
        for _ in 0..CAPACITY - 1 {
            records.push(Record::now("rerouted"));
        }
        assert!(records.ended(first, "cut").is_none());
        assert_eq!(ended(CAPACITY - 1), Some("cut"), "the second one");
        assert!(records.ended(u64::MAX, "cut").is_none());
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_210_096, "2024-02-29T12:34:56.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(
                format_time(UNIX_EPOCH + Duration::from_secs(seconds)),
                expected
            );
        }
        assert!(format_time(UNIX_EPOCH + Duration::from_millis(7)).ends_with("00.007Z"));
    }
}
