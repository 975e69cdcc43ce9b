//! Which pod of a cluster is restarted next, so that every pod runs the newest revision.
//!
//! One at a time over the whole cluster, and only while all others are ready. Of pods that are not
//! ready the first one decides: the newest revision may be what heals it, unless it has that
//! already; then the change stops there. Name servers come first, since brokers need them.

/// What is known of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodState {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    pub(crate) outdated: bool,
    /// Why it is not ready, where that will not pass by itself.
    pub(crate) trouble: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// Every pod runs the newest revision.
    Nothing,
    Restart(&'a PodState),
    /// Not before this pod is ready.
    After(&'a str),
}

/// The next step for the pods of a cluster, in the order in which they shall be restarted.
pub(crate) fn next(pods: &[PodState]) -> Next<'_> {
    let Some(outdated) = pods.iter().find(|pod| pod.outdated) else {
        return Next::Nothing;
    };
    if let Some(leaving) = pods.iter().find(|pod| pod.terminating) {
        return Next::After(&leaving.name);
    }
    match pods.iter().find(|pod| !pod.ready) {
        Some(broken) if broken.outdated => Next::Restart(broken),
        Some(waited_for) => Next::After(&waited_for.name),
        None => Next::Restart(outdated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod in three letters: r or n (ready), t or - (terminating), o or - (outdated).
    fn pod(index: usize, letters: &str) -> PodState {
        PodState {
            name: index.to_string(),
            uid: String::new(),
            ready: letters.starts_with('r'),
            terminating: letters.contains('t'),
            outdated: letters.ends_with('o'),
            trouble: None,
        }
    }

    #[test]
    fn one_pod_at_a_time() {
        let table = [
            ("", "nothing"),
            ("r-- r-- r--", "nothing"),
            ("r-- n-- r--", "nothing"),
            ("r-- r-o r-o", "restart 1"),
            ("n-- r-o r-o", "after 0"),
            ("r-- nto r-o", "after 1"),
            ("r-- nt- r-o", "after 1"),
            ("r-- r-o n-o", "restart 2"),
            ("n-- r-o n-o", "after 0"),
            ("n-o r-o n--", "restart 0"),
            ("r-- n-- n-o", "after 1"),
        ];
        for (letters, expected) in table {
            let pods: Vec<PodState> = letters
                .split_whitespace()
                .enumerate()
                .map(|(i, l)| pod(i, l))
                .collect();
            let found = match next(&pods) {
                Next::Nothing => "nothing".to_owned(),
                Next::Restart(pod) => format!("restart {}", pod.name),
                Next::After(name) => format!("after {name}"),
            };
            assert_eq!(found, expected, "{letters}");
        }
    }
}
