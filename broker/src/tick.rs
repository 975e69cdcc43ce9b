//! How often offsets and other soft state are written to the log.
//!
//! What changed since the last time travels as one record a tick. A tick is a second, and
//! stretches up to five so that these records stay below 2 % of all that is written, or below
//! 64 KB a second where little is.

use std::time::Duration;

const TICK_MIN: Duration = Duration::from_secs(1);
const TICK_MAX: Duration = Duration::from_secs(5);
const SHARE_PERCENT: u64 = 2;
const BYTES_A_SECOND_MIN: u64 = 64_000;

/// The time until the next record, after one of `record_bytes` bytes. In the time `since` the
/// record before it, the log took `log_bytes`.
pub(crate) fn next(record_bytes: u64, log_bytes: u64, since: Duration) -> Duration {
    let millis = u64::try_from(since.max(TICK_MIN).as_millis()).unwrap_or(u64::MAX);
    let share = log_bytes.saturating_mul(10 * SHARE_PERCENT) / millis;
    let rate = share.max(BYTES_A_SECOND_MIN);
    Duration::from_millis(record_bytes.saturating_mul(1_000) / rate).clamp(TICK_MIN, TICK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h12_state_records_stay_a_small_share_of_the_log() {
        let second = Duration::from_secs(1);
        let rows = [
            // Record, log in the time before, that time, and the next tick in ms.
            (0, 0, second, 1_000),
            (300, 1_000, second, 1_000),
            (64_000, 0, second, 1_000),
            (128_000, 0, second, 2_000),
            (128_000, 100, second * 60, 2_000),
            (1_000_000, 0, second, 5_000),
            // 2 % of 100 MB/s are 2 MB/s.
            (1_000_000, 100_000_000, second, 1_000),
            (6_000_000, 100_000_000, second, 3_000),
            (6_000_000, 200_000_000, second * 2, 3_000),
            (6_000_000, 100_000_000, second * 2, 5_000),
            (u64::MAX, u64::MAX, Duration::ZERO, 1_000),
            (u64::MAX, 0, Duration::MAX, 5_000),
        ];
        for (record, log, since, expect) in rows {
            let tick = next(record, log, since);
            assert_eq!(tick.as_millis(), expect, "{record} {log} {since:?}");
        }
    }

    #[test]
    fn h12_a_thousand_groups_write_less_than_64_kb_a_second() {
        // Each tick every group has moved on; the record's size does not depend on the tick.
        let (mut now, mut written, mut tick) = (Duration::ZERO, 0, TICK_MIN);
        let record_bytes = 250_000;
        while now < Duration::from_mins(10) {
            now += tick;
            written += record_bytes;
            tick = next(record_bytes, record_bytes, tick);
        }
        let rate = written / now.as_secs();
        // The first tick was a short one.
        assert!(
            rate <= BYTES_A_SECOND_MIN * 101 / 100,
            "{rate} bytes a second"
        );
    }
}
