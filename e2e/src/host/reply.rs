//! Request and reply: an official consumer answers what an official producer waits for.

use anyhow::ensure;

use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::java::server::CLUSTER;
use crate::lab::{Lab, Target};

pub fn rows() -> Vec<Row> {
    vec![(
        "an_answer_comes_to_whoever_waits_for_it",
        Against::Both,
        |lab, target| Box::pin(answers(lab, target)),
    )]
}

/// One to a client that is not there is an error for whoever sends it, three times, and stored.
async fn answers(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const QUESTIONS: usize = 3;
    const TRIES: usize = 3;
    let site = lab.shared(target).await?;
    for client in [Client::V5, Client::V4] {
        let name = format!("asked-{client:?}");
        let asked = Command::new("request")
            .with("namesrv", site.name_server)
            .with("cluster", CLUSTER)
            .with("topic", &name)
            .with("group", &name)
            .with("count", QUESTIONS)
            .with("stored", QUESTIONS + TRIES);
        let said = lab.driver(client).await?.ask(asked).await?;
        let expected: Vec<String> = (0..QUESTIONS)
            .map(|n| format!("re: question {n}"))
            .collect();
        let (answers, lost) = (said.text("answers")?, said.text("lost")?);
        ensure!(answers == expected.join(","), "{client:?}: {answers}");
        ensure!(
            lost.contains("CODE: 1") && lost.contains("channel of <nobody> not found"),
            "{client:?}: {lost}"
        );
        let stored = said.number("stored")?;
        ensure!(
            stored == (QUESTIONS + TRIES) as i64,
            "{client:?}: {stored} answers are stored"
        );
    }
    Ok(())
}
