//! Every check of the compatibility matrix and every client: the one table. The programs in
//! `compat/java` and `compat/go` know how a client makes the calls of a check; `seen` says what
//! must come of it.

/// An official client in the release that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    Java55,
    Java49,
    Go2,
}

impl Client {
    pub const ALL: [Self; 3] = [Self::Java55, Self::Java49, Self::Go2];

    /// In the names of tests.
    pub fn id(self) -> &'static str {
        match self {
            Self::Java55 => "java55",
            Self::Java49 => "java49",
            Self::Go2 => "go2",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Java55 => "Java 5.5.0",
            Self::Java49 => "Java 4.9.3",
            Self::Go2 => "Go 2.1.2",
        }
    }
}

/// Which servers a check runs against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Shared,
    /// A broker that is stopped and started again when every client is ready for it.
    Restarted,
    /// Servers with a witness in front who sees that each connection is TLS.
    Witnessed,
}

#[derive(Debug)]
pub struct Check {
    pub id: &'static str,
    pub title: &'static str,
    /// What must be seen for a pass.
    pub seen: &'static str,
    pub place: Place,
    pub queues: u32,
    /// Clients that have no such call, and why that is so.
    pub absent: &'static [(Client, &'static str)],
}

const NONE: &[(Client, &str)] = &[];

/// A check on the shared servers that every client can make.
const fn check(id: &'static str, title: &'static str, seen: &'static str) -> Check {
    Check {
        id,
        title,
        seen,
        place: Place::Shared,
        queues: 4,
        absent: NONE,
    }
}

pub static CHECKS: [Check; 24] = [
    check(
        "send_sync",
        "Send, synchronous",
        "20 messages lie at the queues and offsets that their acknowledgements name, each with \
         its body, key, tag, property and id",
    ),
    check(
        "send_async",
        "Send, asynchronous",
        "20 callbacks, no failure, and the messages where the callbacks say",
    ),
    check(
        "send_oneway",
        "Send, one-way",
        "20 messages that nobody acknowledged lie in the topic, each once",
    ),
    check(
        "send_batch",
        "Send, batch",
        "20 messages of one call lie at adjacent offsets of one queue, in order",
    ),
    check(
        "send_selector",
        "Send, with a queue selector",
        "each of 20 messages lies in the queue that the selector chose",
    ),
    check(
        "send_compressed",
        "Send, compressed",
        "a body of 64 KiB arrives as it was and takes less room in the store",
    ),
    check(
        "push_concurrent",
        "Push consumer, concurrent",
        "40 messages, each once",
    ),
    check(
        "push_orderly",
        "Push consumer, orderly",
        "the messages of each queue in their order, never two of a queue at once; a message that \
         is refused once comes again before its followers",
    ),
    check(
        "push_broadcast",
        "Push consumer, broadcast",
        "each of two consumers of a group gets each of 40 messages once",
    ),
    check(
        "pull",
        "Pull by queue and offset",
        "messages by offset with the next, first and last offset; the right status at and beyond \
         the end; a committed offset is read back",
    ),
    Check {
        absent: &[(
            Client::Go2,
            "Its pull consumer takes the queues of its group; there is no call to assign them.",
        )],
        ..check(
            "lite_assign",
            "LitePull, assigned queues",
            "the messages of the two assigned queues of four, and their committed offsets",
        )
    },
    check(
        "lite_subscribe",
        "LitePull, subscribed",
        "20 messages, each once; a second consumer of the group gets the next 20 alone",
    ),
    Check {
        absent: &[(Client::Go2, "Its pull consumer has no call to seek.")],
        ..check(
            "lite_seek",
            "LitePull, seek",
            "exactly the messages from the offset sought, from the beginning, from the end",
        )
    },
    check(
        "tag_filter",
        "Filter by tags",
        "the messages of two tags of four, although two tags have one hash code",
    ),
    check(
        "retry_dlq",
        "Retries and dead letters",
        "with one retry allowed, four refused messages come twice, then lie in the group's \
         dead-letter topic",
    ),
    check(
        "delay_levels",
        "Delay levels",
        "levels 1, 2 and 3 come after 1, 5 and 10 s: never early, at most 5 s late",
    ),
    check(
        "offset_first",
        "Begin at the first offset",
        "a new consumer gets the 40 messages that were there before it",
    ),
    check(
        "offset_last",
        "Begin at the last offset",
        "a new consumer gets what is sent afterwards in each queue and nothing older",
    ),
    check(
        "offset_timestamp",
        "Begin at a time",
        "a new consumer gets the 40 messages after the time and none of the 40 before it",
    ),
    Check {
        queues: 8,
        ..check(
            "rebalance",
            "Two consumers share the queues",
            "each has half of 8 queues, no message comes twice; when one leaves, the other has all",
        )
    },
    check(
        "namespace",
        "Namespaces",
        "one topic name in two namespaces: each consumer gets what was sent in its own",
    ),
    check(
        "trace",
        "Message trace",
        "RMQ_SYS_TRACE_TOPIC has the records of the send and of both ends of the consumption of \
         a message",
    ),
    Check {
        place: Place::Restarted,
        ..check(
            "reconnect",
            "The broker restarts",
            "producer and consumer go on without being restarted; no acknowledged message is lost",
        )
    },
    Check {
        place: Place::Witnessed,
        absent: &[(Client::Go2, "It has no setting for TLS.")],
        ..check(
            "tls",
            "TLS",
            "messages pass, and each connection to name server and broker is TLS",
        )
    },
];

/// A check with a client that has the calls for it.
pub type Cell = (Client, &'static Check);

pub fn cells() -> impl Iterator<Item = Cell> {
    let all = Client::ALL
        .into_iter()
        .flat_map(|client| CHECKS.iter().map(move |check| (client, check)));
    all.filter(|(client, check)| check.why_absent(*client).is_none())
}

impl Check {
    pub fn why_absent(&self, client: Client) -> Option<&'static str> {
        let of_client = self.absent.iter().find(|(other, _)| *other == client);
        of_client.map(|(_, why)| *why)
    }
}
