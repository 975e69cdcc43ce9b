//! The table under registrations, silence and lost connections, in virtual time.

use super::*;
use protocol::body::TopicConfig;

fn at(address: &str) -> Address {
    Address {
        cluster: "c".into(),
        address: address.into(),
    }
}

/// Broker `b` with the topics `T` and `U`, 4 queues each.
fn registration(address: &str, broker_id: i64, epoch: i64) -> Registration {
    let topic = |name: &str| {
        let topic = TopicConfig {
            topic_name: name.into(),
            read_queue_nums: 4,
            write_queue_nums: 4,
            ..TopicConfig::default()
        };
        (name.to_owned(), topic)
    };
    Registration {
        at: at(address),
        broker: "b".into(),
        broker_id,
        ha_address: format!("{address}-ha"),
        timeout_ms: None,
        acting_master: Some(false),
        zone: None,
        complete: false,
        topics: TopicConfigTable {
            data_version: DataVersion {
                counter: 1,
                state_version: epoch,
                timestamp: 0,
            },
            topic_config_table: [topic("T"), topic("U")].into(),
        },
        peer: 1,
    }
}

/// The route's addresses of broker `b` and the perm of `T` there.
fn route(table: &RouteTable) -> Option<(Vec<(i64, String)>, i32)> {
    let route = table.route("T")?;
    let addresses = route.broker_datas[0]
        .broker_addrs
        .clone()
        .into_iter()
        .collect();
    Some((addresses, route.queue_datas[0].perm))
}

#[test]
fn a_broker_is_routed_until_it_is_silent_leaves_or_loses_its_connection() {
    let master = Some((vec![(0, "m:1".to_owned())], 6));
    let mut table = RouteTable::default();
    assert_eq!(route(&table), None);
    table
        .register(registration("m:1", 0, 1), 1_000)
        .expect("registered");
    assert_eq!(route(&table), master);
    assert!(table.expire(1_000 + BROKER_TIMEOUT_MS).is_empty());
    assert_eq!(table.expire(1_001 + BROKER_TIMEOUT_MS), [at("m:1")]);
    assert_eq!((route(&table), table.topic_count()), (None, 0));

    table
        .register(registration("m:1", 0, 1), 0)
        .expect("registered again");
    let unchanged = registration("m:1", 0, 1).topics.data_version;
    let asked = table.query_version(&at("m:1"), unchanged, 100_000);
    assert_eq!(asked, (false, Some(unchanged)));
    assert!(
        table.expire(BROKER_TIMEOUT_MS + 1).is_empty(),
        "being asked is a sign of life"
    );
    let newer = DataVersion {
        counter: 2,
        ..unchanged
    };
    assert_eq!(
        table.query_version(&at("m:1"), newer, 0),
        (true, Some(unchanged))
    );
    assert_eq!(table.query_version(&at("x:1"), newer, 0), (true, None));

    table.unregister(&at("m:1"), "b", 0);
    assert_eq!(route(&table), None);
    table
        .register(registration("m:1", 0, 1), 0)
        .expect("registered");
    assert!(table.peer_closed(2).is_empty());
    assert_eq!(table.peer_closed(1), [at("m:1")]);
    assert_eq!(route(&table), None);

    let short = Registration {
        timeout_ms: Some(500),
        ..registration("m:1", 0, 1)
    };
    table.register(short, 0).expect("registered");
    assert_eq!(table.expire(501), [at("m:1")]);
}

#[test]
fn a_deposed_master_changes_nothing() {
    let mut table = RouteTable::default();
    table
        .register(registration("m:1", 0, 1), 0)
        .expect("registered");
    let newer = Registration {
        peer: 2,
        ..registration("m:2", 0, 2)
    };
    table.register(newer, 0).expect("a higher epoch");
    let refused = table.register(registration("m:1", 0, 1), 0);
    assert_eq!(
        refused,
        Err(RegisterRefused::Deposed {
            broker: "b".into(),
            offered: 1,
            live: 2
        })
    );
    assert!(
        table.peer_closed(1).is_empty(),
        "its connection counts no more"
    );
    assert_eq!(route(&table), Some((vec![(0, "m:2".into())], 6)));
}

#[test]
fn replicas_are_listed_and_learn_their_master() {
    let mut table = RouteTable::default();
    table
        .register(registration("m:1", 0, 1), 0)
        .expect("master");
    let told = table
        .register(registration("r:1", 1, 1), 0)
        .expect("replica");
    assert_eq!(
        told,
        Registered {
            master_address: Some("m:1".into()),
            ha_address: Some("m:1-ha".into())
        }
    );
    let both = vec![(0, "m:1".to_owned()), (1, "r:1".to_owned())];
    assert_eq!(route(&table), Some((both, 6)));
    table.unregister(&at("m:1"), "b", 0);
    assert_eq!(route(&table), Some((vec![(1, "r:1".into())], 6)));
    let acting = |address, id| Registration {
        acting_master: Some(true),
        ..registration(address, id, 1)
    };
    table.register(acting("m:1", 0), 0).expect("master");
    table.register(acting("r:1", 1), 0).expect("replica");
    table.unregister(&at("m:1"), "b", 0);
    assert_eq!(
        route(&table),
        Some((vec![(1, "r:1".into())], 4)),
        "acting: not writable"
    );
    table
        .register(registration("r:1", 0, 2), 0)
        .expect("it became the master");
    assert_eq!(
        route(&table),
        Some((vec![(0, "r:1".into())], 6)),
        "one address, one id"
    );
}

#[test]
fn one_topic_updates_only_a_known_broker() {
    let mut table = RouteTable::default();
    let mut one = registration("m:1", 0, 1);
    one.topics.topic_config_table.remove("U");
    let refused = table.register(one.clone(), 0);
    assert_eq!(
        refused,
        Err(RegisterRefused::Unknown { broker: "b".into() })
    );
    table
        .register(registration("m:1", 0, 1), 0)
        .expect("all topics");
    table.register(one, 0).expect("one topic");
    assert!(
        table.route("U").is_some(),
        "an update of one topic removes no other"
    );
    for (cluster, left) in [(Some("other"), true), (Some("c"), false)] {
        table.delete_topic("U", cluster);
        assert_eq!(table.route("U").is_some(), left, "{cluster:?}");
    }
    let names: Vec<_> = table.clusters().cluster_addr_table.into_iter().collect();
    assert_eq!(names, [("c".to_owned(), ["b".to_owned()].into())]);
}

#[test]
fn an_administrator_changes_permissions_until_the_broker_says_something_new() {
    let mut table = RouteTable::default();
    let perm = |table: &RouteTable| route(table).map(|(_, perm)| perm);
    let again = |version| {
        let mut again = registration("m:1", 0, 1);
        again.topics.data_version.counter = version;
        again
    };
    table.register(again(1), 0).expect("registered");
    assert_eq!(table.set_writable("x", false), 0, "an unknown broker");
    assert_eq!(table.set_writable("b", false), 2);
    table.register(again(1), 0).expect("registered again");
    assert_eq!(perm(&table), Some(4));
    table.register(again(2), 0).expect("changed");
    assert_eq!(perm(&table), Some(6));
    table.set_writable("b", false);
    assert_eq!((table.set_writable("b", true), perm(&table)), (2, Some(6)));

    table.delete_topic("T", None);
    table.register(again(2), 0).expect("registered again");
    assert_eq!(perm(&table), Some(6), "what is missing comes back");
    let mut fewer = again(3);
    fewer.topics.topic_config_table.remove("T");
    table.register(fewer.clone(), 0).expect("one topic");
    assert_eq!(perm(&table), Some(6), "an update of one topic");
    fewer.complete = true;
    table.register(fewer, 0).expect("all topics");
    assert_eq!(perm(&table), None, "the broker has it no more");
}

#[test]
fn topics_are_listed_by_cluster_and_flag() {
    let mut table = RouteTable::default();
    let flagged = |broker: &str, flag| QueueData {
        broker_name: broker.into(),
        topic_sys_flag: flag,
        ..QueueData::default()
    };
    table
        .register(registration("m:1", 0, 1), 0)
        .expect("registered");
    for (topic, flag) in [("unit", 1), ("both", 3), ("sub", 2)] {
        table.add_queues(topic, vec![flagged("b", flag)]);
    }
    table.add_queues("none", vec![flagged("b", 0), flagged("x", 0)]);
    table.add_queues("none", Vec::new());
    for (which, expect) in [
        (Which::All, &["T", "U", "both", "sub", "unit"][..]),
        (Which::OfCluster("c"), &["T", "U", "both", "sub", "unit"]),
        (Which::OfCluster("d"), &[]),
        (Which::Unit, &["both", "unit"]),
        (Which::UnitSubscribed, &["both", "sub"]),
        (Which::UnitSubscribedOnly, &["sub"]),
    ] {
        let list = table.topic_list(which).topic_list;
        assert!(list.iter().eq(expect), "{which:?}: {list:?}");
    }
    let system = table.system_topics();
    assert_eq!(system.broker_addr.as_deref(), Some("m:1"));
    assert!(system.topic_list.iter().eq(["b", "c"]));
}
