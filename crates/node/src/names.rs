//! What a person means by the name of a volume or snapshot.
//!
//! The command line shares a name space with CSI and sees those of all doors: `docker/data` is the
//! Docker plugin's `data`. A bare name is enough while it is the only one; where it is not, or might
//! not be, nothing is guessed.

use stowage_model::id::Role;
use stowage_model::{Error, Id, Name, Record, Result};

use crate::lookup::{all_away, away, known, lasts};
use crate::state::Node;

/// The volume or snapshot of this name or id; an error bears the name as it was typed.
///
/// # Errors
/// As [`stowage_model::Volumes::find`].
pub(crate) async fn find(node: &Node, role: Role, text: &str) -> Result<Id> {
    let is_meant = |record: &Record| match role {
        Role::Snapshot => lasts(record),
        _ => !record.is_snapshot(),
    };
    let id = meant(node, role, text, is_meant).await?;
    known(node, &id).await;
    let there = node.index().get(&id).map(|entry| entry.record);
    let there = there.or_else(|| away(node, &id).map(|known| known.record));
    if there.is_some_and(|record| is_meant(&record)) {
        return Ok(id);
    }
    let what = match role {
        Role::Snapshot => "snapshot",
        _ => "volume",
    };
    let gone = format!("there is no {what} {text:?}; see the list of {what}s");
    Err(node.unread().absent(&id, gone))
}

async fn meant(
    node: &Node,
    role: Role,
    text: &str,
    is_meant: impl Fn(&Record) -> bool,
) -> Result<Id> {
    // What a listing shows can be pasted back.
    if let Some(id) = text.parse::<Id>().ok().filter(|id| id.role() == role) {
        return Ok(id);
    }
    let own = Id::derive(role, &Name::new(text)?);
    // Right after the start, and for no longer than this one needs: another's pool may hang.
    known(node, &own).await;
    let there = node.index().list(|entry| is_meant(&entry.record));
    let away = all_away(node, is_meant);
    let there = there.iter().map(|entry| &entry.record);
    let all = there.chain(away.iter().map(|known| &known.record));
    let named = all.map(|record| (&record.name, &record.id));
    match only(named, text)? {
        None => Ok(own),
        Some((name, id)) if name.to_string() == text => Ok(id.clone()),
        Some((name, id)) => {
            // Ours of this name may be where nobody can look now, and be what is meant.
            node.unread().rule_out(&own).map_err(|e| {
                Error::precondition(format!(
                    "{text:?} may be more than {name}, which is known; give the name with its \
                     door, {name}, or the id, {id}"
                ))
                .caused_by(e)
            })?;
            Ok(id.clone())
        }
    }
}
/// The only one of this name, with or without its door.
fn only<'a>(
    all: impl Iterator<Item = (&'a Name, &'a Id)>,
    text: &str,
) -> Result<Option<(&'a Name, &'a Id)>> {
    let mut found: Vec<_> = all
        .filter(|(name, _)| name.as_str() == text || name.to_string() == text)
        .collect();
    if found.len() < 2 {
        return Ok(found.pop());
    }
    let told: Vec<String> = found.iter().map(|(n, id)| format!("{n} ({id})")).collect();
    Err(Error::invalid(format!(
        "{} are called {text:?}: {}; give the id of the one that is meant",
        found.len(),
        told.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use stowage_model::Kind;
    use stowage_model::id::Door;

    use super::*;

    fn named(names: &[Name], text: &str) -> Result<Option<String>> {
        let ids: Vec<Id> = names.iter().map(|n| Id::derive(Role::Volume, n)).collect();
        let found = only(names.iter().zip(&ids), text)?;
        Ok(found.map(|(name, _)| name.to_string()))
    }

    #[test]
    fn a_bare_name_is_enough_while_it_is_the_only_one() {
        let own = Name::new("data").unwrap();
        let docker = Name::at(Door::new("docker").unwrap(), "data").unwrap();
        let lookalike = Name::new("docker/data").unwrap();
        let both = [own.clone(), docker.clone()];
        let found = |names: &[Name], text| named(names, text).unwrap();
        assert_eq!(found(&both[..1], "data").unwrap(), "data");
        assert_eq!(found(&both[1..], "data").unwrap(), "docker/data");
        assert_eq!(found(&both, "docker/data").unwrap(), "docker/data");
        assert_eq!(found(&both, "dat"), None);
        for (names, text) in [(&both, "data"), (&[lookalike, docker], "docker/data")] {
            let e = named(names, text).unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid);
            for name in names {
                let id = Id::derive(Role::Volume, name);
                let told = format!("{name} ({id})");
                assert!(e.message().contains(&told), "{e}");
            }
        }
    }
}
