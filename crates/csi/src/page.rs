//! Pages of a listing. A token is the id the page before ended with, so volumes made or removed
//! between two pages neither repeat nor hide another one.

use stowage_model::id::Role;
use stowage_model::{Error, Id, Result};

use crate::fields;

/// Which page was asked.
#[derive(Debug)]
pub(crate) struct Page {
    after: Option<Id>,
    /// How many entries at most; `usize::MAX` for "no restriction".
    most: usize,
}

impl Page {
    /// # Errors
    /// [`stowage_model::Kind::BadToken`] for a token this driver never gave out.
    pub(crate) fn new(max_entries: i32, starting_token: &str, role: Role) -> Result<Self> {
        fields::text("starting_token", starting_token)?;
        let most = match usize::try_from(max_entries) {
            Ok(0) => usize::MAX,
            Ok(n) => n,
            Err(_) => {
                return Err(Error::invalid(format!(
                    "max_entries is {max_entries}; it must not be negative"
                )));
            }
        };
        let after = match starting_token {
            "" => None,
            token => match token.parse::<Id>() {
                Ok(id) if id.role() == role => Some(id),
                _ => {
                    return Err(Error::bad_token(format!(
                        "starting_token {token:?} was never given out; begin again without one"
                    )));
                }
            },
        };
        Ok(Self { after, most })
    }

    /// Whether an entry belongs to this page or a later one.
    pub(crate) fn reaches(&self, id: &Id) -> bool {
        self.after.as_ref().is_none_or(|after| id > after)
    }

    /// Cut this page out of the entries, and the token of the next one, empty when there is none.
    pub(crate) fn cut<T>(&self, mut entries: Vec<T>, id: impl Fn(&T) -> &Id) -> (Vec<T>, String) {
        entries.retain(|entry| self.reaches(id(entry)));
        // The order is what makes tokens work, so it is not left to whoever listed them.
        entries.sort_by(|a, b| id(a).cmp(id(b)));
        let more = entries.len() > self.most;
        entries.truncate(self.most);
        let token = entries
            .last()
            .filter(|_| more)
            .map_or_else(String::new, |last| id(last).to_string());
        (entries, token)
    }

    /// Whether a page of this many entries is full.
    pub(crate) fn is_full(&self, entries: usize) -> bool {
        entries >= self.most
    }
}
