//! The host stage: Gantry's processes and official Java on one machine, no Kubernetes.
//!
//! A test that says something about the protocol runs twice: as `reference::…` against the
//! official name server and broker, which shows that the test asks for what Apache RocketMQ does,
//! and as `host::…` against Gantry. What only Gantry has is in `host` alone.

pub mod messages;
pub mod crash;
pub mod kills;
pub mod disk_full;
pub mod produce;
pub mod retry;
pub mod pop;
pub mod reply;
pub mod queues;
pub mod transaction;
pub mod hold;
pub mod limits;
pub mod bad_bytes;
pub mod routes;
pub mod name_server;
pub mod ports;
pub mod export;
pub mod adopt;
pub mod retention;
pub mod life;
pub mod pages;
pub mod metrics;
pub mod mqadmin;
pub mod commands;
pub mod filter;

use crate::lab::{Lab, Target};
use crate::runner::{Running, Test};

/// A test that takes its target as an argument.
pub type Row = (&'static str, Against, fn(&mut Lab, Target) -> Running<'_>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    Both,
    Gantry,
    /// Says something about Java alone.
    Java,
}

/// The tests in which something is random: another seed changes no others.
const SEEDED: [&str; 4] = [
    "passes_10000_messages",
    "sigkill_loses",
    "200_kills",
    "random_expressions",
];

/// All tests, or, for any seed but the first, those that it changes.
pub fn tests(seed: u64) -> Vec<Test<Lab>> {
    let rows: Vec<Row> = [
        messages::rows(),
        produce::rows(),
        retry::rows(),
        pop::rows(),
        reply::rows(),
        queues::rows(),
        transaction::rows(),
        hold::rows(),
        limits::rows(),
        bad_bytes::rows(),
        routes::rows(),
        name_server::rows(),
        ports::rows(),
        crash::rows(),
        kills::rows(),
        disk_full::rows(),
        export::rows(),
        adopt::rows(),
        retention::rows(),
        life::rows(),
        pages::rows(),
        metrics::rows(),
        mqadmin::rows(),
        filter::rows(),
        commands::rows(),
        vec![(
            "the_recorded_constants_are_those_of_the_jar",
            Against::Java,
            |lab, _| Box::pin(crate::codes::compare_with_the_jar(lab)),
        )],
    ]
    .concat();
    let reference = rows
        .iter()
        .filter(|(_, against, _)| *against != Against::Gantry)
        .map(|row| test("reference", row, Target::Java));
    let host = rows
        .iter()
        .filter(|(_, against, _)| *against != Against::Java)
        .map(|row| test("host", row, Target::Gantry));
    let is_wanted = |test: &Test<Lab>| seed == 1 || SEEDED.iter().any(|s| test.name.contains(s));
    reference.chain(host).filter(is_wanted).collect()
}

fn test(stage: &str, &(name, _, run): &Row, target: Target) -> Test<Lab> {
    Test {
        name: format!("{stage}::{name}"),
        run: Box::new(move |lab| run(lab, target)),
    }
}
