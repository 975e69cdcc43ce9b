//! Random expressions: a pull finds those messages of whose properties Java's evaluator says that
//! they make it true. Pulls of what it makes of the expression tell false, neither and unfit apart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use protocol::record::Record;

use super::java_says;
use crate::dice::Dice;
use crate::host::limits::send;
use crate::lab::{Addresses, Lab, Target};
use crate::raw::{self, Connection};
use crate::runner::{is_verify, until};

const GRAMMAR: &str = include_str!("../../../../broker/src/filter/sql/grammar.tsv");
const TOPIC: &str = "random-expressions";
/// As many as one pull returns.
const MESSAGES: usize = 32;

pub(super) async fn expressions(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let count = if is_verify() { 4_000 } else { 400 };
    let seed = lab.seed;
    let mut dice = Dice(seed);
    let messages: Vec<String> = (0..MESSAGES).map(|_| properties(&mut dice)).collect();
    let asked: Vec<Asked> = (0..count).map(|_| Asked::random(&mut dice)).collect();
    let row = |asked: &Asked, message: &String| format!("{}\t{message}", asked.text);
    let rows = asked
        .iter()
        .flat_map(|asked| messages.iter().map(move |m| row(asked, m)));
    let rows: Vec<String> = rows.collect();
    let java = java_says(lab, &rows).await?;

    let site = lab.shared(target).await?;
    for (number, properties) in messages.iter().enumerate() {
        let properties = properties.replace('=', "\u{1}").replace(';', "\u{2}");
        let answer = send(
            &site,
            false,
            TOPIC,
            &properties,
            number.to_string().as_bytes(),
        )
        .await?;
        ensure!(answer.code == 0, "{} {}", answer.code, answer.remark);
    }
    let mut pulls = Pulls::open(&site).await?;
    let limit = Duration::from_secs(20);
    until("all messages are there", limit, async || {
        let all = pulls.matching("TRUE").await?.context("it is served")?;
        ensure!(all.len() == MESSAGES, "{} of {MESSAGES}", all.len());
        Ok(())
    })
    .await?;
    let mut differ = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for ((asked, java), rows) in asked
        .iter()
        .zip(java.chunks(MESSAGES))
        .zip(rows.chunks(MESSAGES))
    {
        // Java's broker takes a bad one in a pull for one that wants everything.
        let is_bad = java.first().is_some_and(|java| java == "bad");
        let found = if target == Target::Java && is_bad {
            vec!["bad"; MESSAGES]
        } else {
            let found = pulls.outcomes(asked).await;
            found.with_context(|| asked.text.clone())?
        };
        for ((found, java), row) in found.into_iter().zip(java).zip(rows) {
            *seen.entry(java).or_default() += 1;
            if found != asked.tellable(java) {
                differ.push(format!("{row}: {found}, Java says {java}"));
            }
        }
    }
    let few: Vec<&String> = differ.iter().take(10).collect();
    ensure!(
        differ.is_empty(),
        "seed {seed}: {} differ: {few:#?}",
        differ.len()
    );
    for outcome in ["true", "false", "null", "error", "bad"] {
        let times = seen.get(outcome).copied().unwrap_or_default();
        ensure!(
            times > rows.len() / 50,
            "seed {seed}: only {times} {outcome}"
        );
    }
    Ok(())
}

/// A text for a name of the grammar.
fn expand(name: &str, depth: u32, dice: &mut Dice) -> String {
    let rows = GRAMMAR.lines().filter_map(|row| row.split_once('\t'));
    let texts: Vec<&str> = rows.filter(|row| row.0 == name).map(|row| row.1).collect();
    let is_last = depth == 0 && texts.iter().any(|text| text.contains('{'));
    let picked = if is_last {
        0
    } else {
        dice.below(texts.len() as u64)
    };
    let parts = texts.get(picked as usize).copied().unwrap_or_default();
    let parts = parts.split(['{', '}']).enumerate();
    let parts = parts.map(|(at, part)| match at % 2 {
        0 => part.to_owned(),
        _ => expand(part, depth.saturating_sub(1), dice),
    });
    parts.collect()
}

/// Of one message: `name=value;`, of a few names.
fn properties(dice: &mut Dice) -> String {
    let mut text = String::new();
    for name in ["a", "b", "c", "A"] {
        if dice.below(4) > 0 {
            text.extend([name, "=", &expand("value", 0, dice), ";"]);
        }
    }
    text
}

struct Asked {
    text: String,
    /// Some signs are left out or too many, so that it means anything or nothing, and is no part
    /// of a longer expression.
    spoiled: bool,
}

impl Asked {
    fn random(dice: &mut Dice) -> Self {
        const DEPTH: u32 = 8;
        const BYTES_MAX: usize = 2_000;
        const EXTRA: [&str; 8] = ["", "", "'", "(", ")", "=", "-", " 1 "];
        let text = expand("expression", DEPTH, dice);
        let spoiled = dice.below(4) == 0;
        if text.len() > BYTES_MAX {
            return Self::random(dice);
        }
        if !spoiled {
            return Self { text, spoiled };
        }
        let mut signs: Vec<char> = text.chars().collect();
        let at = dice.below(signs.len() as u64) as usize;
        let end = signs.len().min(at + dice.below(3) as usize);
        let extra = EXTRA
            .get(dice.below(8) as usize)
            .copied()
            .unwrap_or_default();
        signs.splice(at..end, extra.chars());
        let text = signs.into_iter().collect();
        Self { text, spoiled }
    }

    /// What of Java's outcome can be told by pulls.
    fn tellable<'a>(&self, outcome: &'a str) -> &'a str {
        match outcome {
            "false" | "null" | "error" if self.spoiled => "not true",
            other => other,
        }
    }
}

struct Pulls(Connection);

impl Pulls {
    async fn open(site: &Addresses) -> anyhow::Result<Self> {
        Ok(Self(Connection::open(site.broker).await?))
    }

    /// Of each message.
    async fn outcomes(&mut self, asked: &Asked) -> anyhow::Result<Vec<&'static str>> {
        let text = &asked.text;
        let Some(is_true) = self.matching(text).await? else {
            return Ok(vec!["bad"; MESSAGES]);
        };
        let mut others = Vec::new();
        if !asked.spoiled {
            let is_false = self.matching(&format!("NOT ({text})")).await?;
            let is_null = self.matching(&format!("({text}) IS NULL")).await?;
            others.push(("false", is_false.context("it is served alone")?));
            others.push(("null", is_null.context("it is served alone")?));
        }
        let otherwise = if asked.spoiled { "not true" } else { "error" };
        let outcome = |message: usize| {
            let mut others = others.iter();
            match others.find(|(_, messages)| messages.contains(&message)) {
                _ if is_true.contains(&message) => "true",
                Some((outcome, _)) => *outcome,
                None => otherwise,
            }
        };
        Ok((0..MESSAGES).map(outcome).collect())
    }

    /// The messages that a pull with the expression finds; nothing where it is refused.
    async fn matching(&mut self, sql: &str) -> anyhow::Result<Option<BTreeSet<usize>>> {
        const PULL_MESSAGE: i32 = 11;
        let mut found = BTreeSet::new();
        let mut offset = 0;
        while offset < MESSAGES {
            let from = offset.to_string();
            let fields = [
                ("consumerGroup", TOPIC),
                ("topic", TOPIC),
                ("queueId", "0"),
                ("queueOffset", &from),
                ("maxMsgNums", "32"),
                ("sysFlag", "4"), // subscription in the request
                ("commitOffset", "0"),
                ("suspendTimeoutMillis", "0"),
                ("subscription", sql),
                ("subVersion", "0"),
                ("expressionType", "SQL92"),
            ];
            let request = raw::json_request(PULL_MESSAGE, 1, &fields, b"");
            let answer = self.0.call(&request).await?;
            match answer.code {
                0 | 20 => found.extend(numbers(&answer.body)?),
                23 => return Ok(None),
                code => bail!("{sql}: {code} {}", answer.remark),
            }
            let next = answer.field("nextBeginOffset").context("no next offset")?;
            let next: usize = next.parse()?;
            ensure!(next > offset, "{sql}: from {offset} on to {next}");
            offset = next;
        }
        Ok(Some(found))
    }
}

/// The messages' bodies.
fn numbers(mut records: &[u8]) -> anyhow::Result<Vec<usize>> {
    let mut numbers = Vec::new();
    while let Some(size) = records.first_chunk::<4>() {
        let size = u32::from_be_bytes(*size) as usize;
        let (record, rest) = records.split_at_checked(size).context("a cut record")?;
        let record = Record::decode(record)?;
        numbers.push(std::str::from_utf8(record.body)?.parse()?);
        records = rest;
    }
    Ok(numbers)
}
