//! What is to be done about a Topic or ConsumerGroup, decided without any I/O.

use crds::{Drift, OnBroker};

use crate::condition::{Fact, Verdict};

/// What a resource says of itself, whichever kind it is.
#[derive(Debug, Clone)]
pub(crate) struct Terms<'a> {
    /// Name on the wire.
    pub wire: String,
    /// The BrokerCluster; name servers otherwise.
    pub cluster: Option<&'a str>,
    pub name_servers: &'a [String],
    pub secret: Option<&'a str>,
    /// The only brokers that have it; all when empty.
    pub placement: &'a [String],
    pub may: May,
    pub after: After,
    pub prevent_delete: bool,
}

/// What the operator may do to brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum May {
    Everything,
    Create,
    Look,
}

/// What brokers have when the resource is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Everything,
    Nothing,
    /// Nothing, once no message is left.
    NothingOnceEmpty,
}

/// A setting that differs: its name, what it should be and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub field: String,
    pub want: String,
    pub have: String,
}

/// What came of bringing one broker nearer to what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Brought {
    pub wrote: bool,
    /// What differed before.
    pub differs: Vec<Difference>,
    /// Something still differs.
    pub left: bool,
    /// What a shrink waits for.
    pub shrinks: Option<String>,
    /// The queues that it has, for people.
    pub queues: String,
}

/// What is found on all brokers, taken together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub brokers: Vec<OnBroker>,
    /// Differences that are left as they are.
    pub drift: Vec<Drift>,
    /// Differences that somebody else had made and that are put right.
    pub repaired: Vec<Drift>,
    pub shrinks: Option<String>,
    pub queues: String,
}

/// What becomes of a resource that is being deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nothing is left to do: the resource goes.
    Release,
    /// Brokers are to forget it.
    Remove,
    /// Brokers are to forget it if they hold no message of it.
    RemoveIfEmpty,
    Blocked(Verdict),
}

const DRIFT_MAX: usize = 32;

/// Whether the resource must not go before the operator has had a look.
pub(crate) fn holds(terms: &Terms<'_>) -> bool {
    terms.prevent_delete || (terms.may != May::Look && terms.after != After::Everything)
}

/// `gone`: the cluster or the namespace goes too. `claimed`: another resource declares the same.
pub(crate) fn ending(terms: &Terms<'_>, gone: bool, claimed: bool) -> Ending {
    if gone || claimed || !holds(terms) {
        return Ending::Release;
    }
    if terms.prevent_delete {
        let message = "spec.protection.preventDelete is true: the topic stays, and this resource \
                       until it is false";
        return Ending::Blocked(Verdict::stalled("DeletionPrevented", message.to_owned()));
    }
    match terms.after {
        After::Everything => Ending::Release,
        After::Nothing => Ending::Remove,
        After::NothingOnceEmpty => Ending::RemoveIfEmpty,
    }
}

/// What is said of a topic that is to go but is not empty.
pub(crate) fn not_empty(messages: i64) -> Verdict {
    let message = format!(
        "the topic holds {} messages: it goes when they have expired; deletionPolicy Delete or \
         Retain lets the resource go at once",
        rounded(messages)
    );
    Verdict::stalled("NotEmpty", message)
}

/// Numbers change with each message, what is said of them should not.
fn rounded(number: i64) -> String {
    match number {
        0..10 => number.to_string(),
        _ => format!("more than {}", 10_i64.pow(number.ilog10()) - 1),
    }
}

impl Found {
    /// Takes in what came of one broker. `was_synced`: it had all that this very resource says.
    pub(crate) fn add(&mut self, name: &str, was_synced: bool, may: May, brought: Brought) {
        let drifts = brought.differs.into_iter().map(|d| Drift {
            broker: name.to_owned(),
            field: d.field,
            want: d.want,
            have: d.have,
        });
        if brought.left && brought.shrinks.is_none() {
            self.drift.extend(drifts);
        } else if brought.wrote && was_synced {
            self.repaired.extend(drifts);
        }
        self.drift.truncate(DRIFT_MAX);
        let message = match (&brought.shrinks, may, brought.left) {
            (Some(why), ..) => why.clone(),
            (None, May::Everything, _) | (None, _, false) => String::new(),
            (None, May::Create, true) => "differs and is protected".to_owned(),
            (None, May::Look, true) => "differs".to_owned(),
        };
        self.brokers.push(OnBroker {
            name: name.to_owned(),
            synced: !brought.left,
            message,
        });
        if self.queues.is_empty() {
            self.queues = brought.queues;
        }
        self.shrinks = self.shrinks.take().or(brought.shrinks);
    }

    pub(crate) fn failed(&mut self, name: &str, why: String) {
        self.brokers.push(OnBroker {
            name: name.to_owned(),
            synced: false,
            message: why,
        });
    }

    /// Ready, or the first reason why not.
    pub(crate) fn verdict(&self, may: May) -> Verdict {
        let (all, done) = (
            self.brokers.len(),
            self.brokers.iter().filter(|broker| broker.synced).count(),
        );
        let drifted = |broker: &OnBroker| self.drift.iter().any(|d| d.broker == broker.name);
        let mut missing = self.brokers.iter().filter(|broker| !broker.synced);
        let failed = missing.clone().find(|broker| !drifted(broker));
        let first = failed.or_else(|| missing.next());
        let Some(first) = first else {
            return Verdict::ready(format!("on all {all} brokers"));
        };
        let (name, why) = (&first.name, &first.message);
        if self.shrinks.is_some() {
            return Verdict::working("Shrinking", format!("{name}: {why}"));
        }
        if failed.is_some() {
            let message = format!("on {done} of {all} brokers; {name}: {why}");
            return Verdict::working("WaitingForBrokers", message);
        }
        let fields = self.fields();
        match may {
            May::Everything => {
                let message = format!("broker {name} does not take what is asked: {fields}");
                Verdict::working("WaitingForBrokers", message)
            }
            May::Create => Verdict::stalled(
                "UpdatePrevented",
                format!("spec.protection.preventUpdate is true: {fields}"),
            ),
            May::Look if self.drift.iter().any(|d| d.have == MISSING) => {
                Verdict::stalled("NotFound", format!("broker {name} does not have it"))
            }
            May::Look => Verdict::ready(format!("observed; {fields}")),
        }
    }

    pub(crate) fn facts(&self) -> Vec<Fact> {
        let drifted = !self.drift.is_empty();
        let message = if drifted {
            self.fields()
        } else {
            String::new()
        };
        let synced = self.brokers.iter().all(|broker| broker.synced);
        vec![
            Fact::of("Synced", synced, ["Synced", "Differs"], String::new()),
            Fact::of("DriftDetected", drifted, ["Drifted", "NoDrift"], message),
            no_conflict(),
        ]
    }

    fn fields(&self) -> String {
        list(&self.drift)
    }
}

/// What stands for a topic or group that a broker does not have.
pub(crate) const MISSING: &str = "missing";

pub(crate) fn missing() -> Difference {
    Difference {
        field: "name".to_owned(),
        want: "present".to_owned(),
        have: MISSING.to_owned(),
    }
}

pub(crate) fn conflict(message: &str) -> Fact {
    Fact {
        name: "Conflict",
        holds: true,
        reason: "DeclaredTwice",
        message: message.to_owned(),
    }
}

fn no_conflict() -> Fact {
    Fact {
        name: "Conflict",
        holds: false,
        reason: "NoConflict",
        message: String::new(),
    }
}

/// The differences in one line, a few of them.
pub(crate) fn list(drift: &[Drift]) -> String {
    let one = |d: &Drift| format!("{} on {} is {}, not {}", d.field, d.broker, d.have, d.want);
    let mut lines: Vec<String> = drift.iter().take(3).map(one).collect();
    if drift.len() > lines.len() {
        lines.push(format!("and {} more", drift.len() - lines.len()));
    }
    lines.join("; ")
}

/// Compares settings by their names.
pub(crate) fn differences<const N: usize>(
    settings: [(&str, String, String); N],
) -> Vec<Difference> {
    let differ = settings.into_iter().filter(|(_, want, have)| want != have);
    differ
        .map(|(field, want, have)| Difference {
            field: field.to_owned(),
            want,
            have,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::condition::State;

    fn terms(may: May, after: After, prevent_delete: bool) -> Terms<'static> {
        Terms {
            wire: "orders".to_owned(),
            cluster: Some("demo"),
            name_servers: &[],
            secret: None,
            placement: &[],
            may,
            after,
            prevent_delete,
        }
    }

    #[test]
    fn a_resource_is_held_only_where_something_is_left_to_do() {
        let table = [
            (May::Everything, After::Everything, false, false),
            (May::Everything, After::Nothing, false, true),
            (May::Everything, After::NothingOnceEmpty, false, true),
            (May::Create, After::Nothing, false, true),
            (May::Look, After::Nothing, false, false),
            (May::Look, After::Everything, true, true),
            (May::Everything, After::Everything, true, true),
        ];
        for (may, after, prevent, expected) in table {
            assert_eq!(
                holds(&terms(may, after, prevent)),
                expected,
                "{may:?} {after:?} {prevent}"
            );
        }
    }

    #[test]
    fn what_a_deletion_does() {
        use After::{Everything, Nothing, NothingOnceEmpty};
        let table = [
            (May::Everything, Everything, false, false, false, "Release"),
            (May::Everything, Nothing, false, false, false, "Remove"),
            (
                May::Everything,
                NothingOnceEmpty,
                false,
                false,
                false,
                "RemoveIfEmpty",
            ),
            (May::Everything, Nothing, true, false, false, "Blocked"),
            (May::Look, Everything, true, false, false, "Blocked"),
            (May::Look, Nothing, false, false, false, "Release"),
            // Whatever is said: the cluster or the namespace goes, or another one declares it.
            (May::Everything, Nothing, true, true, false, "Release"),
            (May::Everything, Nothing, false, false, true, "Release"),
        ];
        for (may, after, prevent, gone, claimed, expected) in table {
            let got = format!("{:?}", ending(&terms(may, after, prevent), gone, claimed));
            let got = got.split('(').next().unwrap();
            assert_eq!(
                got, expected,
                "{may:?} {after:?} {prevent} {gone} {claimed}"
            );
        }
    }

    #[test]
    fn what_brokers_have_becomes_a_verdict() {
        let differs = vec![missing()];
        let other = differences([("readQueues", "8".to_owned(), "4".to_owned())]);
        let brought = |wrote, differs: &[Difference], left, shrinks: Option<&str>| Brought {
            wrote,
            differs: differs.to_vec(),
            left,
            shrinks: shrinks.map(str::to_owned),
            queues: "8".to_owned(),
        };
        // may, was synced, what came of it: state, reason, drift, repaired
        let table = [
            (
                May::Everything,
                false,
                brought(false, &[], false, None),
                (State::Ready, "Ready", 0, 0),
            ),
            (
                May::Everything,
                false,
                brought(true, &other, false, None),
                (State::Ready, "Ready", 0, 0),
            ),
            (
                May::Everything,
                true,
                brought(true, &other, false, None),
                (State::Ready, "Ready", 0, 1),
            ),
            (
                May::Everything,
                true,
                brought(true, &differs, false, None),
                (State::Ready, "Ready", 0, 1),
            ),
            (
                May::Everything,
                false,
                brought(true, &other, true, Some("group g")),
                (State::Working, "Shrinking", 0, 0),
            ),
            (
                May::Create,
                true,
                brought(false, &other, true, None),
                (State::Stalled, "UpdatePrevented", 1, 0),
            ),
            (
                May::Look,
                false,
                brought(false, &other, true, None),
                (State::Ready, "Ready", 1, 0),
            ),
            (
                May::Look,
                false,
                brought(false, &differs, true, None),
                (State::Stalled, "NotFound", 1, 0),
            ),
        ];
        for (may, was_synced, brought, expected) in table {
            let mut found = Found::default();
            found.add("a", was_synced, may, brought.clone());
            let verdict = found.verdict(may);
            let (drift, repaired) = (found.drift.len(), found.repaired.len());
            let got = (verdict.state, verdict.reason, drift, repaired);
            assert_eq!(got, expected, "{may:?} {brought:?}");
        }
    }

    #[test]
    fn a_broker_that_does_not_answer_is_named() {
        let mut found = Found::default();
        found.add("a", true, May::Everything, Brought::default());
        found.failed("b", "no answer".to_owned());
        let verdict = found.verdict(May::Everything);
        assert_eq!(verdict.message, "on 1 of 2 brokers; b: no answer");
    }

    #[test]
    fn numbers_in_messages_change_seldom() {
        let table = [
            (1, "1"),
            (9, "9"),
            (10, "more than 9"),
            (99, "more than 9"),
            (100, "more than 99"),
        ];
        for (number, expected) in table {
            assert_eq!(rounded(number), expected);
        }
    }
}
