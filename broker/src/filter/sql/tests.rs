//! Expressions against the table that Java's evaluator is asked, too, and against a reading of the
//! rules that shares no code with ours.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

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

/// An expression in words of its own.
enum Naive {
    Compare(&'static str, &'static str, i64),
    Is(&'static str, bool),
    Text(&'static str, &'static str, &'static str),
    Both(&'static str, Box<Naive>, Box<Naive>),
    Not(Box<Naive>),
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const VALUES: [&str; 5] = ["1", "2", "12", "x", "21"];

impl Naive {
    fn random(random: &mut StdRng, depth: u32) -> Self {
        let name = *NAMES.choose(random).expect("some");
        match random.random_range(0..if depth == 0 { 3 } else { 5 }) {
            0 => {
                let signs = ["=", "<>", "<", "<=", ">", ">="];
                let sign = *signs.choose(random).expect("some");
                Self::Compare(name, sign, random.random_range(0..30))
            }
            1 => Self::Is(name, random.random()),
            2 => {
                let words = ["CONTAINS", "STARTSWITH", "ENDSWITH", "NOT CONTAINS"];
                let word = *words.choose(random).expect("some");
                Self::Text(name, word, VALUES.choose(random).expect("some"))
            }
            3 => Self::Not(Box::new(Self::random(random, depth - 1))),
            _ => {
                let word = if random.random() { "AND" } else { "OR" };
                let mut side = || Box::new(Self::random(random, depth - 1));
                Self::Both(word, side(), side())
            }
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Compare(name, sign, number) => format!("{name} {sign} {number}"),
            Self::Is(name, true) => format!("{name} IS NULL"),
            Self::Is(name, false) => format!("{name} IS NOT NULL"),
            Self::Text(name, word, text) => format!("{name} {word} '{text}'"),
            Self::Both(word, left, right) => format!("({} {word} {})", left.text(), right.text()),
            Self::Not(of) => format!("NOT ({})", of.text()),
        }
    }

    /// `t`, `f`, `n` for neither, `e` for unfit.
    fn truth(&self, of: &BTreeMap<&str, &str>) -> char {
        let truth = |truth: bool| if truth { 't' } else { 'f' };
        match self {
            Self::Compare(name, sign, number) => match of.get(name).map(|text| text.parse()) {
                None => 'n',
                Some(Err(_)) => 'e',
                Some(Ok::<i64, _>(value)) => truth(match *sign {
                    "=" => value == *number,
                    "<>" => value != *number,
                    "<" => value < *number,
                    "<=" => value <= *number,
                    ">" => value > *number,
                    _ => value >= *number,
                }),
            },
            Self::Is(name, null) => truth(of.contains_key(name) != *null),
            Self::Text(name, word, text) => truth(of.get(name).is_some_and(|value| match *word {
                "CONTAINS" => value.contains(text),
                "STARTSWITH" => value.starts_with(text),
                "ENDSWITH" => value.ends_with(text),
                _ => !value.contains(text),
            })),
            Self::Not(inner) => match inner.truth(of) {
                't' => 'f',
                'f' => 't',
                other => other,
            },
            Self::Both(word, left, right) => {
                let ends = if *word == "AND" { 'f' } else { 't' };
                match (left.truth(of), right.truth(of)) {
                    ('e', _) => 'e',
                    (left, _) if left == ends => ends,
                    (_, right) if right == ends || right == 'e' => right,
                    (left, right) if left == 'n' || right == 'n' => 'n',
                    (left, _) => left,
                }
            }
        }
    }
}

#[test]
fn a_naive_reading_agrees() {
    let seed = rand::rng().next_u64();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..20_000 {
        let naive = Naive::random(&mut random, 4);
        let mut properties = BTreeMap::new();
        for name in NAMES {
            if random.random() {
                properties.insert(name, *VALUES.choose(&mut random).expect("some"));
            }
        }
        let expected = match naive.truth(&properties) {
            't' => "true",
            'f' => "false",
            'n' => "null",
            _ => "error",
        };
        let text = naive.text();
        assert_eq!(
            outcome(&text, &properties),
            expected,
            "{text} {properties:?}"
        );
    }
}

#[test]
fn any_text_is_read_or_refused() {
    const PARTS: [&str; 32] = [
        "a",
        " ",
        "=",
        "<>",
        "<",
        "(",
        ")",
        "'",
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
        "/*",
        "*/",
        "é",
    ];
    let seed = rand::rng().next_u64();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..100_000 {
        let count = random.random_range(0..20);
        let parts = (0..count).map(|_| *PARTS.choose(&mut random).expect("some"));
        let text: String = parts.collect();
        let _ = outcome(&text, &BTreeMap::from([("a", "1")]));
    }
}
