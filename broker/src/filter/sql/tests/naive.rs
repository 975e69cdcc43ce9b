//! The rules of SQL92 filters once more, without a line of ours: regular expressions cut the text
//! into words, and each part is evaluated as soon as it is read. No limits, and no reasons.

#![allow(clippy::match_same_arms)] // which of them comes first is what they say

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

/// What a word may be: blank, real number, whole number, name, text or sign. The first that fits
/// is also the longest.
static WORDS: LazyLock<[(char, Regex); 6]> = LazyLock::new(|| {
    [
        ('b', r"(?s)^(?:[ \t\n\r\x0c]|--[^\n\r]*[\n\r]|/\*.*?\*/)"),
        (
            'r',
            r"^(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|^[0-9]+[eE][+-]?[0-9]+",
        ),
        ('w', r"^(?:0|[1-9][0-9]*[lL]?)"),
        ('n', r"^[a-zA-Z_$][a-zA-Z0-9_$]*"),
        ('t', r"^'(?:''|[^'])*'"),
        ('s', r"^(?:<>|<=|>=|[<>=+(),-])"),
    ]
    .map(|(kind, text)| (kind, Regex::new(text).expect("an expression")))
});

/// What the documentation of `Double.valueOf` takes for a number.
static REAL: LazyLock<Regex> = LazyLock::new(|| {
    let text = r"(?x) ^ [\x00-\x20]* ([+-]?) (?:
        (NaN) | (Infinity)
        | ( (?: [0-9]+ \.? [0-9]* | \. [0-9]+ ) (?: [eE] [+-]? [0-9]+ )? ) [fFdD]?
        | 0[xX] ([0-9a-fA-F]*) \.? ([0-9a-fA-F]*) [pP] ([+-]? [0-9]+) [fFdD]?
    ) [\x00-\x20]* $";
    Regex::new(text).expect("an expression")
});

const KEYWORDS: [&str; 12] = [
    "NOT",
    "AND",
    "OR",
    "BETWEEN",
    "IN",
    "TRUE",
    "FALSE",
    "NULL",
    "IS",
    "CONTAINS",
    "STARTSWITH",
    "ENDSWITH",
];

/// `true`, `false`, `null`, `error` or `bad`.
pub(super) fn outcome(expression: &str, properties: &BTreeMap<&str, &str>) -> &'static str {
    let words = words(expression);
    let mut reading = Reading {
        words: &words,
        properties,
    };
    let read = reading.any().and_then(Part::condition);
    match read.map(|part| part.value) {
        None => "bad",
        Some(Value::Truth(true)) => "true",
        Some(Value::Truth(false)) => "false",
        Some(Value::Unfit) => "error",
        Some(_) => "null",
    }
}

/// Of each its kind (`k`: keyword or sign, `!`: none, `.`: the end) and its text.
fn words(mut rest: &str) -> Vec<(char, String)> {
    let mut words = Vec::new();
    while !rest.is_empty() {
        let fits = |(kind, regex): &(char, Regex)| Some((*kind, regex.find(rest)?.as_str()));
        let Some((kind, word)) = WORDS.iter().find_map(fits) else {
            words.push(('!', String::new()));
            return words;
        };
        rest = &rest[word.len()..];
        let upper = word.to_ascii_uppercase();
        match kind {
            'b' => {}
            's' => words.push(('k', upper)),
            'n' if KEYWORDS.contains(&upper.as_str()) => words.push(('k', upper)),
            't' => words.push(('t', word[1..word.len() - 1].replace("''", "'"))),
            kind => words.push((kind, word.to_owned())),
        }
    }
    words.push(('.', String::new()));
    words
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    /// A text is no number of the kind it is compared with.
    Unfit,
    Nothing,
    Truth(bool),
    /// Of 32 or 64 bits.
    Whole(i128, u32),
    Real(f64),
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Truth,
    Number,
    Text,
    Name,
    Negative,
    Condition,
}

#[derive(Debug, Clone)]
struct Part {
    kind: Kind,
    value: Value,
}

impl Part {
    /// What stands between AND, OR and NOT; nothing where that makes a bad expression.
    fn condition(self) -> Option<Self> {
        match (self.kind, self.value) {
            (Kind::Name, Value::Text(_)) => Some(decided(Value::Truth(false))),
            (Kind::Name | Kind::Null | Kind::Truth | Kind::Condition, value) => {
                Some(decided(value))
            }
            _ => None,
        }
    }
}

fn decided(value: Value) -> Part {
    Part {
        kind: Kind::Condition,
        value,
    }
}

/// The words that are left. All of what it reads is nothing in a bad expression.
struct Reading<'a> {
    words: &'a [(char, String)],
    properties: &'a BTreeMap<&'a str, &'a str>,
}

impl Reading<'_> {
    fn any(&mut self) -> Option<Part> {
        let mut left = self.all()?;
        while self.takes("OR")? {
            let right = self.all()?;
            left = either(left.condition()?, right.condition()?);
        }
        Some(left)
    }

    fn all(&mut self) -> Option<Part> {
        let mut left = self.equality()?;
        while self.takes("AND")? {
            let right = self.equality()?;
            left = both(left.condition()?, right.condition()?);
        }
        Some(left)
    }

    fn equality(&mut self) -> Option<Part> {
        let mut left = self.comparison()?;
        loop {
            if self.takes("IS")? {
                let negated = self.takes("NOT")?;
                self.takes("NULL")?.then_some(())?;
                let null = match left.value {
                    Value::Unfit => Value::Unfit,
                    value => Value::Truth(value == Value::Nothing),
                };
                left = turned(decided(null), negated);
            } else if self.takes("=")? {
                left = equal(left, self.comparison()?)?;
            } else if self.takes("<>")? {
                left = turned(equal(left, self.comparison()?)?, true);
            } else {
                return Some(left);
            }
        }
    }

    fn comparison(&mut self) -> Option<Part> {
        let mut left = self.unary()?;
        loop {
            let negated = self.takes("NOT")?;
            let word = self.keyword()?;
            left = match word.as_str() {
                "<" | "<=" | ">" | ">=" if !negated => {
                    self.pass();
                    ordered(&word, &left, &self.unary()?)?
                }
                "CONTAINS" | "STARTSWITH" | "ENDSWITH" => {
                    self.pass();
                    found(&word, &left.value, &self.text()?, negated)
                }
                "BETWEEN" => {
                    self.pass();
                    let low = self.unary()?;
                    self.takes("AND")?.then_some(())?;
                    between(&left, &low, &self.unary()?, negated)?
                }
                "IN" => {
                    self.pass();
                    self.list(left, negated)?
                }
                _ if negated => return None,
                _ => return Some(left),
            };
        }
    }

    fn list(&mut self, left: Part, negated: bool) -> Option<Part> {
        self.takes("(")?.then_some(())?;
        let mut texts = vec![self.text()?];
        while self.takes(",")? {
            texts.push(self.text()?);
        }
        self.takes(")")?.then_some(())?;
        (left.kind == Kind::Name).then_some(())?;
        Some(decided(match left.value {
            Value::Text(text) => Value::Truth(texts.contains(&text) != negated),
            value => value,
        }))
    }

    fn unary(&mut self) -> Option<Part> {
        if self.takes("+")? {
            return self.unary();
        }
        if self.takes("-")? {
            let value = match self.unary()?.value {
                Value::Whole(number, bits) => Value::Whole(-number, bits),
                Value::Real(number) => Value::Real(-number),
                Value::Unfit => Value::Unfit,
                _ => Value::Nothing,
            };
            let kind = Kind::Negative;
            return Some(Part { kind, value });
        }
        if self.takes("NOT")? {
            return Some(turned(self.unary()?.condition()?, true));
        }
        if self.takes("(")? {
            let inner = self.any()?;
            return self.takes(")")?.then_some(inner);
        }
        self.single()
    }

    fn single(&mut self) -> Option<Part> {
        let (kind, word) = self.words.first()?;
        let (kind, value) = match (kind, word.as_str()) {
            ('k', "NULL") => (Kind::Null, Value::Nothing),
            ('k', "TRUE") => (Kind::Truth, Value::Truth(true)),
            ('k', "FALSE") => (Kind::Truth, Value::Truth(false)),
            ('t', text) => (Kind::Text, Value::Text(text.to_owned())),
            ('w', digits) => {
                let number: i64 = digits.trim_end_matches(['l', 'L']).parse().ok()?;
                let bits = if number > i64::from(i32::MAX) { 64 } else { 32 };
                (Kind::Number, Value::Whole(number.into(), bits))
            }
            ('r', digits) => {
                let number: f64 = digits.parse().ok()?;
                (number > 0.0 && number <= f64::MAX).then_some(())?;
                (Kind::Number, Value::Real(number))
            }
            ('n', name) => {
                let text = self.properties.get(name).map(ToString::to_string);
                (Kind::Name, text.map_or(Value::Nothing, Value::Text))
            }
            _ => return None,
        };
        self.pass();
        Some(Part { kind, value })
    }

    fn text(&mut self) -> Option<String> {
        let (kind, text) = self.words.first()?;
        (*kind == 't').then(|| self.pass())?;
        Some(text.clone())
    }

    fn takes(&mut self, word: &str) -> Option<bool> {
        let taken = self.keyword()? == word;
        if taken {
            self.pass();
        }
        Some(taken)
    }

    /// The next word if it is a keyword or a sign, else an empty one.
    fn keyword(&self) -> Option<String> {
        match self.words.first()? {
            ('!', _) => None,
            ('k', word) => Some(word.clone()),
            _ => Some(String::new()),
        }
    }

    fn pass(&mut self) {
        self.words = &self.words[1..];
    }
}

fn both(left: Part, right: Part) -> Part {
    let value = match (left.value, right.value) {
        (Value::Unfit, _) => Value::Unfit,
        (Value::Truth(false), _) => Value::Truth(false),
        (_, Value::Unfit) => Value::Unfit,
        (_, Value::Truth(false)) => Value::Truth(false),
        (Value::Nothing, _) | (_, Value::Nothing) => Value::Nothing,
        _ => Value::Truth(true),
    };
    decided(value)
}

fn either(left: Part, right: Part) -> Part {
    turned(both(turned(left, true), turned(right, true)), true)
}

/// NOT, where it stands.
fn turned(part: Part, negated: bool) -> Part {
    match part.value {
        Value::Truth(truth) => decided(Value::Truth(truth != negated)),
        value => decided(value),
    }
}

fn equal(left: Part, right: Part) -> Option<Part> {
    match (left.kind, right.kind) {
        (Kind::Null, _) | (_, Kind::Null) => return None,
        (Kind::Truth, Kind::Text | Kind::Number) => return None,
        _ => {}
    }
    Some(decided(match (&left.value, &right.value) {
        (Value::Unfit, _) | (_, Value::Unfit) => Value::Unfit,
        (Value::Nothing, Value::Nothing) => Value::Truth(true),
        (Value::Nothing, _) => Value::Nothing,
        (_, Value::Nothing) => Value::Truth(false),
        (left, right) => match compared(left, right) {
            Some(order) => Value::Truth(order.is_eq()),
            None => Value::Unfit,
        },
    }))
}

fn ordered(sign: &str, left: &Part, right: &Part) -> Option<Part> {
    for side in [left, right] {
        matches!(side.kind, Kind::Number | Kind::Name | Kind::Negative).then_some(())?;
    }
    let order = match (&left.value, &right.value) {
        (Value::Unfit, _) => None,
        (Value::Nothing, _) => return Some(decided(Value::Nothing)),
        (_, Value::Unfit) => None,
        (_, Value::Nothing) => return Some(decided(Value::Nothing)),
        (Value::Text(left), Value::Text(right)) => {
            real(left).and_then(|left| Some(reals(left, real(right)?)))
        }
        (left, right) => compared(left, right),
    };
    Some(decided(order.map_or(Value::Unfit, |order| {
        Value::Truth(match sign {
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            _ => order.is_ge(),
        })
    })))
}

fn between(value: &Part, low: &Part, high: &Part, negated: bool) -> Option<Part> {
    if negated {
        let (below, above) = (ordered("<", value, low)?, ordered(">", value, high)?);
        return Some(either(below, above));
    }
    if low.kind == Kind::Number && high.kind == Kind::Number {
        compared(&high.value, &low.value)?.is_ge().then_some(())?;
    }
    Some(both(
        ordered(">=", value, low)?,
        ordered("<=", value, high)?,
    ))
}

fn found(word: &str, value: &Value, searched: &str, negated: bool) -> Part {
    decided(match value {
        _ if searched.is_empty() => Value::Truth(false),
        Value::Unfit => Value::Unfit,
        Value::Text(text) => {
            let found = match word {
                "CONTAINS" => text.contains(searched),
                "STARTSWITH" => text.starts_with(searched),
                _ => text.ends_with(searched),
            };
            Value::Truth(found != negated)
        }
        _ => Value::Truth(false),
    })
}

/// Nothing where a text is no number of the other's kind.
fn compared(left: &Value, right: &Value) -> Option<Ordering> {
    use Value::{Real, Text, Truth, Whole};
    Some(match (left, right) {
        (Truth(left), Truth(right)) => left.cmp(right),
        (Text(left), Text(right)) => left.cmp(right),
        (Whole(left, _), Whole(right, _)) => left.cmp(right),
        (Whole(left, _), Real(right)) => reals(*left as f64, *right),
        (Real(left), Whole(right, _)) => reals(*left, *right as f64),
        (Real(left), Real(right)) => reals(*left, *right),
        (Text(left), Whole(right, bits)) => whole(left, *bits)?.cmp(right),
        (Text(left), Real(right)) => reals(real(left)?, *right),
        (Text(left), Truth(right)) => (left.to_lowercase() == "true").cmp(right),
        (Whole(..) | Real(_), Text(_)) => compared(right, left)?.reverse(),
        (Truth(_), Text(_)) => return None,
        _ => Ordering::Less,
    })
}

/// Zero is greater than its negative, and what is no number the greatest.
fn reals(left: f64, right: f64) -> Ordering {
    let signs = || right.is_sign_negative().cmp(&left.is_sign_negative());
    match left.partial_cmp(&right) {
        Some(order) => order.then_with(signs),
        None => left.is_nan().cmp(&right.is_nan()),
    }
}

fn whole(text: &str, bits: u32) -> Option<i128> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: i128 = all.then(|| text.parse().ok())??;
    let end = 1_i128 << (bits - 1);
    (-end..end).contains(&number).then_some(number)
}

fn real(text: &str) -> Option<f64> {
    let parts = REAL.captures(text)?;
    let part = |at: usize| parts.get(at).map(|part| part.as_str());
    let number = if let Some(decimal) = part(4) {
        decimal.parse().ok()?
    } else if let (Some(before), Some(after)) = (part(5), part(6)) {
        let digits = u64::from_str_radix(&format!("{before}{after}"), 16).ok()?;
        let power: i128 = part(7)?.parse().ok()?;
        let power = power.clamp(-9_999, 9_999) - 4 * after.len() as i128;
        let step = if power < 0 { 0.5 } else { 2.0 };
        (0..power.abs()).fold(digits as f64, |number, _| number * step)
    } else if part(2).is_some() {
        f64::NAN
    } else {
        f64::INFINITY
    };
    Some(if part(1) == Some("-") {
        -number
    } else {
        number
    })
}
