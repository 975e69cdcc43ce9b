//! Expressions against the table that Java's evaluator is asked, too, and random ones against a
//! reading of the rules that shares no code with ours.

mod naive;

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use super::parse::BYTES_MAX;
use super::*;

fn outcome(expression: &str, properties: &BTreeMap<&str, &str>) -> &'static str {
    match parse(expression) {
        Err(_) => "bad",
        Ok(condition) => match condition.truth(&|name| properties.get(name).copied()) {
            Ok(Some(true)) => "true",
            Ok(Some(false)) => "false",
            Ok(None) => "null",
            Err(Unfit) => "error",
        },
    }
}

#[test]
fn the_table() {
    let rows = include_str!("table.tsv").lines();
    for row in rows.filter(|row| !row.starts_with('#')) {
        let mut cells = row.split('\t');
        let mut cell = || cells.next().expect("three cells");
        let (expression, properties, expected) = (cell(), cell(), cell());
        let properties = properties.split(';').filter_map(|one| one.split_once('='));
        let properties: BTreeMap<&str, &str> = properties.collect();
        assert_eq!(outcome(expression, &properties), expected, "{row}");
        let naive = naive::outcome(expression, &properties);
        assert_eq!(naive, expected, "read naively: {row}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let table = [
        ("", "no value at character 1 of the expression"),
        ("a = ", "no value at character 5 of the expression"),
        ("é", "'é' has no meaning at character 1 of the expression"),
        (
            "a = 'é' AND #",
            "'#' has no meaning at character 13 of the expression",
        ),
        ("a IS 1", "no NULL at character 6 of the expression"),
        ("a IN ('x'", "no ) at character 10 of the expression"),
        (
            "a > 'x'",
            "only numbers have an order at character 5 of the expression",
        ),
        (
            "'x' IN ('x')",
            "IN has no property before it at character 1 of the expression",
        ),
        (
            "a = 1 AND 1 AND TRUE",
            "a value where a condition should be at character 11 of the expression",
        ),
        (
            "a BETWEEN 2 AND 1",
            "BETWEEN has its greater bound first at character 17 of the expression",
        ),
        (
            "a = 'x",
            "a text without an end at character 5 of the expression",
        ),
    ];
    for (expression, expected) in table {
        let bad = parse(expression).expect_err(expression);
        assert_eq!(bad.to_string(), expected, "{expression}");
    }
}

#[test]
fn an_expression_has_limits() {
    let nested = |parts: usize| format!("{}a = 1{}", "(".repeat(parts), ")".repeat(parts));
    assert!(parse(&nested(31)).is_ok());
    assert!(parse(&nested(32)).is_err());
    for deep in ["NOT ", "- ", "+ "] {
        assert!(
            parse(&format!("{} a", deep.repeat(1_000))).is_err(),
            "{deep}"
        );
    }
    for chained in [" = 1", " IS NULL", " CONTAINS 'x'"] {
        assert!(
            parse(&format!("a{}", chained.repeat(30))).is_ok(),
            "{chained}"
        );
        assert!(
            parse(&format!("a{}", chained.repeat(33))).is_err(),
            "{chained}"
        );
    }
    let long = vec!["a = 1"; 400].join(" OR ");
    assert!(long.len() < BYTES_MAX && parse(&long).is_ok());
    let bad = parse(&format!("{long} OR {long}")).expect_err("too long");
    assert_eq!(bad.at, BYTES_MAX + 1);
}

/// Each BETWEEN stands left of another: who copied or evaluated it for both of its bounds would do
/// so 2^16 times.
#[test]
fn betweens_within_each_other_cost_no_more_than_their_number() {
    let nested = (0..15).fold("a".to_owned(), |inner, _| {
        format!("-({inner} BETWEEN 1 AND 2)")
    });
    let condition = parse(&format!("{nested} BETWEEN 1 AND 2")).expect("31 parts");
    let asked = std::cell::Cell::new(0);
    let truth = condition.truth(&|_| {
        asked.set(asked.get() + 1);
        Some("1")
    });
    assert_eq!((truth, asked.get()), (Ok(None), 1));
}

/// A text for a name of the grammar.
fn expand(name: &str, depth: u32, pick: &mut dyn FnMut(usize) -> usize) -> String {
    let rows = include_str!("grammar.tsv").lines();
    let rows = rows.filter_map(|row| row.split_once('\t'));
    let texts: Vec<&str> = rows.filter(|row| row.0 == name).map(|row| row.1).collect();
    let is_last = depth == 0 && texts.iter().any(|text| text.contains('{'));
    let picked = if is_last { 0 } else { pick(texts.len()) };
    let parts = texts[picked].split(['{', '}']).enumerate();
    let parts = parts.map(|(at, part)| match at % 2 {
        0 => part.to_owned(),
        _ => expand(part, depth.saturating_sub(1), pick),
    });
    parts.collect()
}

const DEPTH: u32 = 8;

/// Random expressions: what is picked shrinks to the first of all.
fn expressions() -> impl Strategy<Value = String> {
    vec(any::<u16>(), 0..80).prop_map(|picks| {
        let mut picks = picks.into_iter();
        let mut pick = |of| usize::from(picks.next().unwrap_or(0)) % of;
        expand("expression", DEPTH, &mut pick)
    })
}

type Texts = BTreeMap<String, String>;

/// Values of the grammar, and of all others.
fn properties() -> impl Strategy<Value = Texts> {
    let known = any::<u16>().prop_map(|pick| expand("value", 0, &mut |of| usize::from(pick) % of));
    let value = prop_oneof![4 => known, 1 => "(?s).{0,6}"];
    btree_map("[abcA]", value, 0..=4)
}

/// Tells the seed of what fails.
fn check<S: Strategy>(
    cases: u32,
    strategy: S,
    holds: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let seed = std::env::var("GANTRY_SEED").ok();
    let seed = seed.map_or_else(
        || rand::rng().next_u64(),
        |seed| seed.parse().expect("a number"),
    );
    let config = Config {
        cases: cases * Config::default().cases / 256,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    };
    if let Err(failed) = TestRunner::new(config).run(&strategy, holds) {
        panic!("GANTRY_SEED={seed}: {failed}");
    }
}

/// Ours, if it is the naive one's too.
fn agreed(text: &str, properties: &Texts) -> Result<&'static str, TestCaseError> {
    let properties = properties
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    let properties = properties.collect();
    let ours = outcome(text, &properties);
    let naive = naive::outcome(text, &properties);
    prop_assert_eq!(ours, naive, "ours is left: {} with {:?}", text, properties);
    Ok(ours)
}

#[test]
fn a_naive_reading_agrees() {
    let seen = RefCell::new(BTreeMap::new());
    let random = (expressions(), properties());
    check(8_192, random, |(text, properties)| {
        let outcome = agreed(&text, &properties)?;
        *seen.borrow_mut().entry(outcome).or_insert(0) += 1;
        Ok(())
    });
    let seen = seen.into_inner();
    let all: u32 = seen.values().sum();
    for outcome in ["true", "false", "null", "error", "bad"] {
        let times = seen.get(outcome).copied().unwrap_or(0);
        assert!(times > all / 50, "only {times} of {all} {outcome}");
    }
}

const PARTS: [&str; 38] = [
    "a",
    " ",
    "=",
    "<>",
    "<",
    "<=",
    "(",
    ")",
    "'",
    "''",
    "'x'",
    "1",
    "1.5",
    "NOT ",
    " AND ",
    " OR ",
    " IS ",
    "NULL",
    " IN ",
    " BETWEEN ",
    "CONTAINS ",
    " STARTSWITH ",
    " ENDSWITH ",
    "TRUE",
    "--",
    "\n",
    "1e",
    "7L",
    ".",
    ",",
    "-",
    "+",
    "/*",
    "*/",
    "0",
    "$",
    "\u{c}",
    "é",
];

/// Bytes, texts, words in no order, and expressions with one part put in or left out.
fn texts() -> impl Strategy<Value = String> {
    let bytes = vec(any::<u8>(), 0..60);
    let bytes = bytes.prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let part = select(&PARTS[..]);
    let parts = vec(part.clone(), 0..20).prop_map(|parts| parts.concat());
    let spoiled = (expressions(), any::<Index>(), 0..4_usize, part);
    let spoiled = spoiled.prop_map(|(text, at, without, part)| {
        let at = at.index(text.chars().count() + 1);
        let after = text.chars().skip(at + without);
        text.chars()
            .take(at)
            .chain(part.chars())
            .chain(after)
            .collect()
    });
    prop_oneof![1 => bytes, 1 => "(?s).{0,40}", 4 => parts, 4 => spoiled]
}

#[test]
fn any_text_is_read_or_refused() {
    check(8_192, (texts(), properties()), |(text, properties)| {
        agreed(&text, &properties).map(drop)
    });
}

/// Beyond what anybody writes: whatever comes is an answer, and at once.
#[test]
fn long_texts_are_read_or_refused() {
    let long = (vec(texts(), 1..4), 1..4_000_usize);
    check(512, (long, properties()), |((parts, times), properties)| {
        let text = parts.concat().repeat(times);
        let properties = properties
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        outcome(&text, &properties.collect());
        Ok(())
    });
}
