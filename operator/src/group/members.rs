//! What the members of a group subscribe to, and whether they agree. Pure.
//!
//! Members of one group that subscribe differently take messages from each other: the broker
//! believes whoever spoke last. Nobody tells them; the condition SubscriptionConflict does.

use std::collections::BTreeMap;

use crds::group::{FilterType, Subscription};
use protocol::body::{ALL_TAGS, SubscriptionData};

/// Topic to expression, in one way of writing.
pub(crate) type Subscribed = BTreeMap<String, String>;

const RETRY_PREFIX: &str = "%RETRY%";

/// What a member subscribes to, but for the group's own retries.
pub(crate) fn subscribed<'a>(all: impl IntoIterator<Item = &'a SubscriptionData>) -> Subscribed {
    let own = all
        .into_iter()
        .filter(|data| !data.topic.starts_with(RETRY_PREFIX));
    own.map(|data| {
        let kind = data.expression_type.as_deref().unwrap_or("TAG");
        (data.topic.clone(), written(kind, &data.sub_string))
    })
    .collect()
}

/// What the resource wants them to subscribe to.
pub(crate) fn wanted(all: &[Subscription]) -> Subscribed {
    let one = |s: &Subscription| {
        let kind = match s.filter_type {
            FilterType::Tag => "TAG",
            FilterType::Sql92 => "SQL92",
        };
        (s.topic.clone(), written(kind, &s.expression))
    };
    all.iter().map(one).collect()
}

/// Tags in order and without doubles, another language as it is.
fn written(kind: &str, expression: &str) -> String {
    if kind != "TAG" {
        return format!("{kind} {}", expression.trim());
    }
    let tags = expression.split("||").map(str::trim);
    let mut tags: Vec<&str> = tags.filter(|tag| !tag.is_empty()).collect();
    tags.sort_unstable();
    tags.dedup();
    if tags.is_empty() {
        return ALL_TAGS.to_owned();
    }
    tags.join(" || ")
}

/// How members differ from what is wanted, or from each other. `merged` is what the broker has,
/// for members that do not tell.
pub(crate) fn conflict(
    wanted: &Subscribed,
    members: &BTreeMap<String, Subscribed>,
    merged: &Subscribed,
) -> Option<String> {
    if !wanted.is_empty() {
        let of_broker = ("a member".to_owned(), merged.clone());
        let mut all: Vec<(&String, &Subscribed)> = members.iter().collect();
        if all.is_empty() && !merged.is_empty() {
            all.push((&of_broker.0, &of_broker.1));
        }
        let told = all
            .into_iter()
            .find_map(|(client, has)| difference("the resource", wanted, client, has));
        if told.is_some() {
            return told;
        }
    }
    let mut members = members.iter();
    let (first, theirs) = members.next()?;
    members.find_map(|(client, has)| difference(first, theirs, client, has))
}

fn difference(one: &str, a: &Subscribed, other: &str, b: &Subscribed) -> Option<String> {
    let topic = a
        .keys()
        .chain(b.keys())
        .find(|topic| a.get(*topic) != b.get(*topic))?;
    let said = |has: &Subscribed| {
        let expression = has.get(topic);
        expression.map_or_else(|| "nothing".to_owned(), |e| format!("\"{e}\""))
    };
    let (a, b) = (said(a), said(b));
    Some(format!("of topic {topic} {one} wants {a} and {other} {b}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Subscribed {
        let all: Vec<SubscriptionData> = pairs
            .iter()
            .map(|(topic, expression)| SubscriptionData {
                topic: (*topic).to_owned(),
                sub_string: (*expression).to_owned(),
                ..SubscriptionData::default()
            })
            .collect();
        subscribed(&all)
    }

    #[test]
    fn tags_are_compared_as_sets() {
        let table = [
            ("TAG", "", "*"),
            ("TAG", "*", "*"),
            ("TAG", "b||a ||b", "a || b"),
            ("SQL92", " a > 1 ", "SQL92 a > 1"),
        ];
        for (kind, expression, expected) in table {
            assert_eq!(written(kind, expression), expected);
        }
    }

    #[test]
    fn members_that_disagree_are_told_apart() {
        let all = of(&[("t", "*"), ("%RETRY%g", "*")]);
        let some = of(&[("t", "a || b")]);
        let more = of(&[("t", "*"), ("u", "*")]);
        let none = Subscribed::new();
        type Members<'a> = &'a [(&'a str, &'a Subscribed)];
        let table: [(&Subscribed, Members<'_>, &Subscribed, Option<&str>); 10] = [
            (&none, &[], &none, None),
            (&none, &[], &some, None),
            (&none, &[("1", &all)], &all, None),
            (&none, &[("1", &all), ("2", &all)], &all, None),
            (
                &none,
                &[("1", &all), ("2", &some)],
                &some,
                Some("of topic t 1 wants \"*\" and 2 \"a || b\""),
            ),
            (
                &none,
                &[("1", &all), ("2", &more)],
                &more,
                Some("of topic u 1 wants nothing and 2 \"*\""),
            ),
            (&all, &[], &none, None),
            (&all, &[], &all, None),
            (
                &all,
                &[],
                &some,
                Some("of topic t the resource wants \"*\" and a member \"a || b\""),
            ),
            (
                &some,
                &[("1", &some), ("2", &all)],
                &all,
                Some("of topic t the resource wants \"a || b\" and 2 \"*\""),
            ),
        ];
        for (wanted, members, merged, expected) in table {
            let members = members.iter();
            let members = members.map(|(c, s)| ((*c).to_owned(), (*s).clone()));
            let got = conflict(wanted, &members.collect(), merged);
            assert_eq!(got.as_deref(), expected);
        }
    }
}
