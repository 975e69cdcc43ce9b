//! The conditions Ready, Reconciling and Stalled, as kstatus and `kubectl wait` read them.
//!
//! Reconciling and Stalled are there only while they are true. The time of a condition is that
//! of its last change of status, so that a verdict that is repeated changes nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// What a reconcile says of its resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) state: State,
    /// One word in CamelCase, also the reason of the event.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// On the way; time or the work of others will do.
    Working,
    /// Somebody has to change something.
    Stalled,
    /// Left alone: readiness is what it was.
    Paused,
}

impl Verdict {
    pub(crate) fn ready(message: String) -> Self {
        Verdict {
            state: State::Ready,
            reason: "Ready",
            message,
        }
    }

    pub(crate) fn working(reason: &'static str, message: String) -> Self {
        Verdict {
            state: State::Working,
            reason,
            message,
        }
    }

    pub(crate) fn stalled(reason: &'static str, message: String) -> Self {
        Verdict {
            state: State::Stalled,
            reason,
            message,
        }
    }
}

/// What is said beside Ready, Reconciling and Stalled. It stays, true or false, so that a
/// condition that was never looked at can be told from one that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fact {
    /// Type of the condition.
    pub(crate) name: &'static str,
    pub(crate) holds: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Fact {
    /// With its reason if it holds, and if it does not.
    pub(crate) fn of(
        name: &'static str,
        holds: bool,
        [yes, no]: [&'static str; 2],
        message: String,
    ) -> Self {
        Fact {
            name,
            holds,
            reason: if holds { yes } else { no },
            message,
        }
    }
}

pub(crate) fn conditions(
    old: &[Condition],
    generation: i64,
    verdict: &Verdict,
    facts: &[Fact],
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let same = old.iter().find(|c| c.type_ == kind && c.status == status);
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: Some(generation),
            last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
        }
    };
    let readiness = old.iter().find(|c| c.type_ == "Ready");
    let of_verdict: &[(&str, &str)] = match verdict.state {
        State::Ready => &[("Ready", "True")],
        State::Working => &[("Ready", "False"), ("Reconciling", "True")],
        State::Stalled => &[("Ready", "False"), ("Stalled", "True")],
        State::Paused => &[("Ready", readiness.map_or("Unknown", |c| c.status.as_str()))],
    };
    let (reason, message) = (verdict.reason, verdict.message.as_str());
    let of_verdict = of_verdict
        .iter()
        .map(|(kind, status)| condition(kind, status, reason, message));
    let of_facts = facts.iter().map(|fact| {
        let status = if fact.holds { "True" } else { "False" };
        condition(fact.name, status, fact.reason, &fact.message)
    });
    of_verdict.chain(of_facts).collect()
}

/// True when the verdict is news: worth an event.
pub(crate) fn is_news(old: &[Condition], verdict: &Verdict) -> bool {
    old.iter()
        .find(|c| c.type_ == "Ready")
        .is_none_or(|ready| ready.reason != verdict.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Type, status and time of each condition.
    fn shape(conditions: &[Condition]) -> Vec<(String, String, i64)> {
        let shape = |c: &Condition| {
            (
                c.type_.clone(),
                c.status.clone(),
                c.last_transition_time.0.as_second(),
            )
        };
        conditions.iter().map(shape).collect()
    }

    #[test]
    fn verdicts_become_conditions() {
        let working = Verdict::working("Waiting", "for a pod".into());
        let ready = Verdict::ready("all is well".into());
        let stalled = Verdict::stalled("Invalid", "no such class".into());
        let paused = Verdict {
            state: State::Paused,
            reason: "Paused",
            message: String::new(),
        };
        type Step<'a> = (&'a Verdict, &'a [(&'a str, &'a str, i64)]);
        let steps: [Step<'_>; 6] = [
            (
                &working,
                &[("Ready", "False", 1), ("Reconciling", "True", 1)],
            ),
            (
                &working,
                &[("Ready", "False", 1), ("Reconciling", "True", 1)],
            ),
            (&ready, &[("Ready", "True", 3)]),
            (&paused, &[("Ready", "True", 3)]),
            (&stalled, &[("Ready", "False", 5), ("Stalled", "True", 5)]),
            (&paused, &[("Ready", "False", 5)]),
        ];
        let mut now = Vec::new();
        for (second, (verdict, expected)) in steps.into_iter().enumerate() {
            now = conditions(&now, 7, verdict, &[], at(second as i64 + 1));
            let expected: Vec<_> = expected
                .iter()
                .map(|&(t, s, n)| (t.to_owned(), s.to_owned(), n))
                .collect();
            assert_eq!(shape(&now), expected, "step {second}");
            assert!(now.iter().all(|c| c.observed_generation == Some(7)));
        }
    }

    #[test]
    fn facts_keep_the_time_of_their_last_change() {
        let fact = |holds| Fact {
            name: "Available",
            holds,
            reason: "Because",
            message: String::new(),
        };
        let ready = Verdict::ready(String::new());
        let mut now = Vec::new();
        for (second, holds, since) in [(1, true, 1), (2, true, 1), (3, false, 3), (4, true, 4)] {
            now = conditions(&now, 1, &ready, &[fact(holds)], at(second));
            let status = if holds { "True" } else { "False" };
            let expected = [
                ("Ready".to_owned(), "True".to_owned(), 1),
                ("Available".to_owned(), status.to_owned(), since),
            ];
            assert_eq!(shape(&now), expected);
        }
    }

    #[test]
    fn a_new_reason_is_news() {
        let waiting = Verdict::working("Waiting", "for one pod".into());
        let still = Verdict::working("Waiting", "for another pod".into());
        let old = conditions(&[], 1, &waiting, &[], at(0));
        assert!(is_news(&[], &waiting));
        assert!(!is_news(&old, &still));
        assert!(is_news(&old, &Verdict::ready(String::new())));
    }
}
