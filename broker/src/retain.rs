//! Which of the log's oldest files go, and why the others stay. Pure: time, disk and consumers
//! are arguments.
//!
//! A file goes when its last record is older than the retention. When the disk is used above
//! `clean`, files go earlier that every group has consumed. Above `reject` the store refuses
//! sends; files that somebody still wants go only if the operator has said so.

use std::fmt::Write as _;
use std::time::Duration;

use store::{Sealed, Volume};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub keep: Duration,
    pub clean_percent: u8,
    pub reject_percent: u8,
    /// Above `reject_percent`, files go that somebody still wants.
    pub delete_unconsumed: bool,
}

/// What must not be deleted, by position in the log.
#[derive(Debug, Clone, Default)]
pub struct Holds {
    /// The oldest record of a topic that is kept longer than the rule says.
    pub reserved: Option<u64>,
    /// The oldest record that is still to be delivered by the broker itself.
    pub live: Option<u64>,
    /// The oldest record that each consumer has not consumed.
    pub unconsumed: Vec<Unconsumed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconsumed {
    pub position: u64,
    pub topic: String,
    pub queue: i32,
    /// `None`: no group has ever consumed the queue.
    pub group: Option<String>,
}

/// How many of the oldest files go, by reason, and where the log then starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    pub start: u64,
    pub expired: usize,
    pub consumed: usize,
    pub unconsumed: usize,
}

impl Plan {
    pub fn files(&self) -> usize {
        self.expired + self.consumed + self.unconsumed
    }
}

/// What goes of `files`, the oldest first. `start` is where the log starts now.
pub fn plan(files: &[Sealed], volume: Volume, now_ms: i64, rules: &Rules, holds: &Holds) -> Plan {
    let mut plan = Plan {
        start: files.first().map_or(0, |file| file.start),
        ..Plan::default()
    };
    let keep_ms = i64::try_from(rules.keep.as_millis()).unwrap_or(i64::MAX);
    let unconsumed = holds.unconsumed.iter().map(|hold| hold.position).min();
    let below = |file: &Sealed, hold: Option<u64>| hold.is_none_or(|hold| file.end <= hold);
    let mut volume = volume;
    for file in files {
        if !below(file, holds.live) {
            break;
        }
        let expired = now_ms.saturating_sub(file.last_ms) > keep_ms;
        let used = volume.used_percent();
        if expired && below(file, holds.reserved) {
            plan.expired += 1;
        } else if used > rules.clean_percent && below(file, unconsumed) {
            plan.consumed += 1;
        } else if used > rules.reject_percent && rules.delete_unconsumed {
            plan.unconsumed += 1;
        } else {
            break;
        }
        plan.start = file.end;
        volume.used_bytes = volume.used_bytes.saturating_sub(file.end - file.start);
    }
    plan
}

/// Goes on behind "91 % of the disk is used": what holds the log `[start, end)`.
pub fn held_by(start: u64, end: u64, rules: &Rules, holds: &Holds) -> String {
    let mut text = String::from("; ");
    let oldest = holds.unconsumed.iter().min_by_key(|hold| hold.position);
    let written = match oldest {
        None if holds.live.is_some() => {
            let size = size(end.saturating_sub(start));
            write!(
                text,
                "the log's {size} hold messages that are still to be delivered"
            )
        }
        None => {
            let size = size(end.saturating_sub(start));
            write!(
                text,
                "the log has {size}, of which no complete file is left to delete"
            )
        }
        Some(hold) => {
            let others = holds
                .unconsumed
                .iter()
                .filter(|other| other.group != hold.group);
            let next = others.map(|other| other.position).min().unwrap_or(end);
            let size = size(next.saturating_sub(start));
            let Unconsumed { topic, queue, .. } = hold;
            match &hold.group {
                Some(group) => write!(
                    text,
                    "the oldest {size} are kept for group {group} (topic {topic}, queue {queue})"
                ),
                None => write!(
                    text,
                    "the oldest {size} are kept until their {} are over (no group has consumed \
                     topic {topic}, queue {queue})",
                    time(rules.keep)
                ),
            }
        }
    };
    written.expect("invariant: a text can be written");
    text
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes.div_ceil(1 << 20)),
        _ => format!("{} GiB", bytes.div_ceil(1 << 30)),
    }
}

fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds > 0 && seconds.is_multiple_of(3_600) => format!("{} h", seconds / 3_600),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const RULES: Rules = Rules {
        keep: Duration::from_hours(72),
        clean_percent: 75,
        reject_percent: 90,
        delete_unconsumed: false,
    };

    /// Four files of 10 bytes whose last records are so many hours old, on a volume of 100 bytes.
    fn plan_of(hours: [i64; 4], used: u64, rules: &Rules, holds: &Holds) -> (u64, [usize; 3]) {
        let files: Vec<_> = (10..)
            .step_by(10)
            .zip(hours)
            .map(|(start, hours)| Sealed {
                start,
                end: start + 10,
                last_ms: 1_000 * HOUR - hours * HOUR,
            })
            .collect();
        let volume = Volume {
            used_bytes: used,
            total_bytes: 100,
        };
        let plan = plan(&files, volume, 1_000 * HOUR, rules, holds);
        assert_eq!((plan.start - 10) as usize, plan.files() * 10);
        (plan.start, [plan.expired, plan.consumed, plan.unconsumed])
    }

    fn unconsumed(position: u64, group: Option<&str>) -> Unconsumed {
        Unconsumed {
            position,
            topic: "T".into(),
            queue: 3,
            group: group.map(str::to_owned),
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn what_goes() {
        let deletes = Rules {
            delete_unconsumed: true,
            ..RULES
        };
        let wanted = |position| Holds {
            unconsumed: vec![unconsumed(99, None), unconsumed(position, Some("g"))],
            ..Holds::default()
        };
        let reserved = |position| Holds {
            reserved: Some(position),
            ..wanted(10)
        };
        let live = |position| Holds {
            live: Some(position),
            ..Holds::default()
        };
        let old = [100, 99, 3, 0];
        let new = [3, 2, 1, 0];
        let rows = [
            (
                "nothing is old",
                new,
                50,
                &RULES,
                Holds::default(),
                [0, 0, 0],
            ),
            (
                "72 h exactly",
                [72, 72, 72, 72],
                50,
                &RULES,
                Holds::default(),
                [0, 0, 0],
            ),
            ("two are", old, 50, &RULES, wanted(10), [2, 0, 0]),
            ("all are", [99; 4], 50, &RULES, wanted(10), [4, 0, 0]),
            (
                "a younger one before an older",
                [3, 99, 99, 0],
                50,
                &RULES,
                wanted(10),
                [0, 0, 0],
            ),
            (
                "a topic is kept longer",
                old,
                50,
                &RULES,
                reserved(25),
                [1, 0, 0],
            ),
            (
                "not yet delivered",
                [99; 4],
                99,
                &deletes,
                live(25),
                [1, 0, 0],
            ),
            (
                "used, and consumed",
                new,
                85,
                &RULES,
                Holds::default(),
                [0, 1, 0],
            ),
            (
                "used, until it is clean",
                new,
                95,
                &RULES,
                Holds::default(),
                [0, 2, 0],
            ),
            (
                "used, and consumed in part",
                new,
                95,
                &RULES,
                wanted(29),
                [0, 1, 0],
            ),
            ("at the bound", new, 75, &RULES, Holds::default(), [0, 0, 0]),
            (
                "kept longer, but consumed",
                old,
                80,
                &RULES,
                Holds {
                    reserved: Some(15),
                    ..Holds::default()
                },
                [0, 1, 0],
            ),
            ("full, and wanted", new, 99, &RULES, wanted(10), [0, 0, 0]),
            (
                "full, and wanted, and to go",
                new,
                99,
                &deletes,
                wanted(10),
                [0, 0, 1],
            ),
            ("fuller", new, 100, &deletes, wanted(20), [0, 1, 0]),
            (
                "old, consumed, wanted",
                [99, 3, 2, 1],
                120,
                &deletes,
                wanted(30),
                [1, 1, 1],
            ),
        ];
        for (name, hours, used, rules, holds, expect) in rows {
            let (_, counts) = plan_of(hours, used, rules, &holds);
            assert_eq!(counts, expect, "{name}");
        }
        assert_eq!(
            plan(
                &[],
                Volume {
                    used_bytes: 9,
                    total_bytes: 9
                },
                0,
                &RULES,
                &live(0)
            ),
            Plan::default()
        );
    }

    #[test]
    fn what_holds_a_full_disk() {
        let holds = |unconsumed: Vec<Unconsumed>| Holds {
            unconsumed,
            ..Holds::default()
        };
        let gib = 1 << 30;
        let rows = [
            (
                holds(vec![
                    unconsumed(gib, Some("g")),
                    unconsumed(41 * gib, Some("h")),
                ]),
                "; the oldest 40 GiB are kept for group g (topic T, queue 3)",
            ),
            (
                holds(vec![unconsumed(9 * gib, None), unconsumed(2 * gib, None)]),
                "; the oldest 99 GiB are kept until their 72 h are over (no group has consumed \
                 topic T, queue 3)",
            ),
            (
                holds(vec![]),
                "; the log has 99 GiB, of which no complete file is left to delete",
            ),
            (
                Holds {
                    live: Some(gib),
                    ..Holds::default()
                },
                "; the log's 99 GiB hold messages that are still to be delivered",
            ),
        ];
        for (holds, expect) in rows {
            assert_eq!(held_by(gib, 100 * gib, &RULES, &holds), expect);
        }
        let sizes = [
            (0, "0 KiB"),
            (1, "1 KiB"),
            (1 << 20, "1 MiB"),
            (5 << 29, "3 GiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(time(Duration::from_secs(90)), "90 s");
    }
}
