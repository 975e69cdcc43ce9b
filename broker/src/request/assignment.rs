//! `QUERY_ASSIGNMENT`: which queues a member of a group reads, and whether by pulls or pops; and
//! `SET_MESSAGE_REQUEST_MODE` (`QueryAssignmentProcessor.java`).
//!
//! The queues are those of all brokers, as a name server says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use net::Peer;
use protocol::body::{
    Assignment, Assignments, MessageModel, MessageQueue, PERM_READ, QueryAssignment, RequestMode,
    SetRequestMode, TopicRouteData,
};
use protocol::json::{from_fastjson, to_fastjson};
use protocol::topic::RETRY_PREFIX;
use protocol::{Frame, Refusal, ResponseCode};

use super::create::route;
use super::{Answer, sendback};
use crate::Broker;
use crate::tables::Change;

/// For each name server that is asked in turn.
const NAME_SERVER_MAX: Duration = Duration::from_millis(500);

pub(super) fn query(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let asked: QueryAssignment = from_fastjson(&request.body)?;
    let received = Instant::now();
    let (broker, request, peer) = (Arc::clone(broker), request.head(), Arc::clone(peer));
    let runtime = broker.runtime.clone();
    runtime.spawn(async move {
        let queues = queues(&broker, &asked.topic).await;
        let mode = broker
            .tables()
            .request_mode(&asked.topic, &asked.consumer_group);
        let members = broker.clients().consumer_ids(&asked.consumer_group);
        let queues = queues.and_then(|queues| assign(&asked, &mode, queues, &members));
        let assignment = |message_queue| Assignment {
            message_queue,
            mode: mode.mode,
        };
        let assignments = queues.map(|queues| queues.into_iter().map(assignment).collect());
        let body = to_fastjson(&Assignments {
            message_queue_assignments: assignments,
        });
        let answer = request.answer(ResponseCode::Success).with_body(body);
        broker.reply(&request, &answer, &peer, received);
    });
    Ok(None)
}

pub(super) fn set_mode(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let set: SetRequestMode = from_fastjson(&request.body)?;
    if set.topic.starts_with(RETRY_PREFIX) {
        let remark = "retry topic is not allowed to set mode";
        return Err(Refusal::new(ResponseCode::NoPermission, remark));
    }
    let (topic, group) = {
        let tables = broker.tables();
        (tables.topic(&set.topic), tables.group(&set.consumer_group))
    };
    let mut changes = broker.missing(&set.consumer_group);
    if topic.is_none() {
        let remark = format!("topic[{}] not exist", set.topic);
        return Err(Refusal::new(ResponseCode::TopicNotExist, remark));
    }
    if group.is_none() && changes.is_empty() {
        return Err(sendback::unknown_group(&set.consumer_group));
    }
    tracing::info!(
        topic = set.topic,
        group = set.consumer_group,
        mode = ?set.mode,
        "how messages are requested is set"
    );
    changes.push(Change::RequestMode(set));
    broker.change_and_answer(changes, request, peer);
    Ok(None)
}

/// All queues of a topic that can be read, in order; `None` where nobody knows the topic.
async fn queues(broker: &Broker, topic: &str) -> Option<Vec<MessageQueue>> {
    for name_server in &broker.config.name_servers {
        match route(name_server, topic, NAME_SERVER_MAX).await {
            Ok(route) => return Some(readable(topic, &route)),
            Err(error) => tracing::debug!(topic, %error, "no route for an assignment"),
        }
    }
    if !broker.config.name_servers.is_empty() {
        return None;
    }
    let count = broker.tables().topic(topic)?.read_queue_nums;
    Some(
        (0..count)
            .map(|id| queue(topic, &broker.config.broker, id))
            .collect(),
    )
}

fn readable(topic: &str, route: &TopicRouteData) -> Vec<MessageQueue> {
    let brokers = route.queue_datas.iter();
    let brokers = brokers.filter(|one| one.perm & PERM_READ != 0);
    let queues = brokers
        .flat_map(|one| (0..one.read_queue_nums).map(|id| queue(topic, &one.broker_name, id)));
    let mut queues: Vec<_> = queues.collect();
    queues.sort();
    queues
}

fn queue(topic: &str, broker: &str, queue_id: i32) -> MessageQueue {
    MessageQueue {
        topic: topic.to_owned(),
        broker_name: broker.to_owned(),
        queue_id,
    }
}

/// What a member gets of these queues; `None` when that can't be said. The members are in order.
fn assign(
    asked: &QueryAssignment,
    mode: &SetRequestMode,
    queues: Vec<MessageQueue>,
    members: &[String],
) -> Option<Vec<MessageQueue>> {
    if asked.message_model == MessageModel::Broadcasting {
        return Some(queues);
    }
    let strategy = Strategy::of(&asked.strategy_name)?;
    if queues.is_empty() || members.is_empty() {
        return None;
    }
    let own = members.iter().position(|member| *member == asked.client_id);
    if mode.mode == RequestMode::Pull {
        let own = own.map(|own| strategy.share(&queues, own, members.len()));
        return Some(own.unwrap_or_default());
    }
    let shares = usize::try_from(mode.pop_share_queue_num).unwrap_or(0);
    if shares == 0 || shares >= members.len() - 1 {
        let mut all: Vec<MessageQueue> = queues;
        for queue in &mut all {
            queue.queue_id = -1;
        }
        all.dedup();
        return Some(all);
    }
    let Some(own) = own else {
        return Some(Vec::new());
    };
    if members.len() > queues.len() {
        let one = queues.get(own % queues.len());
        return Some(one.cloned().into_iter().collect());
    }
    // The queues of the members behind it too.
    let of_each = (own..=own + shares).map(|at| at % members.len());
    let all = of_each.flat_map(|at| strategy.share(&queues, at, members.len()));
    Some(all.collect())
}

/// How queues are shared out (`AllocateMessageQueueStrategy.java`).
#[derive(Debug, Clone, Copy)]
enum Strategy {
    /// Neighbours to one member.
    Averagely,
    /// One by one in a circle.
    ByCircle,
}

impl Strategy {
    fn of(name: &str) -> Option<Self> {
        match name {
            "AVG" => Some(Self::Averagely),
            "AVG_BY_CIRCLE" => Some(Self::ByCircle),
            _ => None,
        }
    }

    /// What the member at a place gets, of so many.
    fn share(self, queues: &[MessageQueue], place: usize, members: usize) -> Vec<MessageQueue> {
        match self {
            Self::Averagely => {
                let (each, more) = (queues.len() / members, queues.len() % members);
                let from = place * each + place.min(more);
                let count = each + usize::from(place < more);
                queues.iter().skip(from).take(count).cloned().collect()
            }
            Self::ByCircle => queues
                .iter()
                .skip(place)
                .step_by(members)
                .cloned()
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_shared_out_as_javas_strategies_do() {
        let queues: Vec<_> = (0..5).map(|id| queue("T", "b", id)).collect();
        let members = ["a", "b", "c"].map(str::to_owned);
        let pull = |strategy, client| (strategy, client, RequestMode::Pull, 0);
        let pop = |client, shares| ("AVG", client, RequestMode::Pop, shares);
        for ((strategy, client, mode, shares), expect) in [
            (pull("AVG", "a"), Some(vec![0, 1])),
            (pull("AVG", "b"), Some(vec![2, 3])),
            (pull("AVG", "c"), Some(vec![4])),
            (pull("AVG", "x"), Some(vec![])),
            (pull("AVG_BY_CIRCLE", "a"), Some(vec![0, 3])),
            (pull("AVG_BY_CIRCLE", "c"), Some(vec![2])),
            (pull("CONFIG", "a"), None),
            (pop("a", 0), Some(vec![-1])),
            (pop("x", -1), Some(vec![-1])),
            (pop("a", 2), Some(vec![-1])),
            (pop("c", 1), Some(vec![4, 0, 1])),
            (pop("x", 1), Some(vec![])),
        ] {
            let asked = QueryAssignment {
                client_id: client.into(),
                strategy_name: strategy.into(),
                ..QueryAssignment::default()
            };
            let mode = SetRequestMode {
                mode,
                pop_share_queue_num: shares,
                ..SetRequestMode::default()
            };
            let got = assign(&asked, &mode, queues.clone(), &members);
            let got = got.map(|got| got.iter().map(|queue| queue.queue_id).collect());
            assert_eq!(got, expect, "{strategy} {client} {shares}");
            let few = assign(&asked, &mode, queues.clone(), &[]);
            assert_eq!(few, None, "nobody is there");
        }
        let asked = QueryAssignment {
            client_id: "c".into(),
            strategy_name: "AVG".into(),
            ..QueryAssignment::default()
        };
        let mode = SetRequestMode {
            mode: RequestMode::Pop,
            pop_share_queue_num: 1,
            ..SetRequestMode::default()
        };
        let few = assign(&asked, &mode, queues[..2].to_vec(), &members);
        assert_eq!(few, Some(vec![queues[0].clone()]), "each member has one");
    }
}
