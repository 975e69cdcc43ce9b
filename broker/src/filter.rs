//! Which messages of a queue a consumer wants: by their tags, or by a condition on their
//! properties.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

pub mod sql;

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};
use protocol::body::SubscriptionData;
use protocol::properties;
use protocol::record::Record;

use sql::{BadExpression, Condition};

/// `ExpressionType.java`
pub const SQL92: &str = "SQL92";

#[derive(Debug, Clone)]
pub enum Filter {
    All,
    Tags(Arc<SubscriptionData>),
    Sql(Arc<Condition>),
}

impl Filter {
    /// Whether a message whose tag has this hash may be wanted.
    pub fn wants(&self, tags_code: i64) -> bool {
        match self {
            Self::All | Self::Sql(_) => true,
            Self::Tags(subscription) => subscription.wants(tags_code),
        }
    }

    /// Whether a message is wanted whose tag may be, by its record as the store gives it.
    pub fn wants_record(&self, record: &[u8]) -> bool {
        match self {
            Self::All | Self::Tags(_) => true,
            Self::Sql(condition) => Record::decode_known(record).is_ok_and(|record| {
                condition.matches(&|name| properties::get(record.properties, name))
            }),
        }
    }
}

/// Conditions by their texts, so that no pull reads one anew.
#[derive(Debug, Default)]
pub struct Conditions(HashMap<Box<str>, Arc<Condition>>);

/// More than these are forgotten.
const CONDITIONS_MAX: usize = 1_024;

impl Conditions {
    pub fn of(&mut self, text: &str) -> Result<Arc<Condition>, BadExpression> {
        if let Some(known) = self.0.get(text) {
            return Ok(Arc::clone(known));
        }
        let condition = Arc::new(sql::parse(text)?);
        if self.0.len() >= CONDITIONS_MAX {
            self.0 = HashMap::new();
        }
        self.0.insert(text.into(), Arc::clone(&condition));
        Ok(condition)
    }
}
