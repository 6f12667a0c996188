//! The text of a group's metadata, as far as it says what the group is and which disks are in it.

use super::bare;

/// A group, as the metadata on one of its disks has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) uuid: String,
    /// Counts the commits.
    pub(crate) seqno: u64,
    /// The host it belongs to; empty for any.
    pub(crate) system_id: String,
    /// The lock manager that guards it (`sanlock`, `dlm`, `idm`); empty for none.
    pub(crate) lock_type: String,
    /// Given away by vgexport(8).
    pub(crate) exported: bool,
    pub(crate) tags: Vec<String>,
    pub(crate) members: Vec<Member>,
}

/// A disk of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) uuid: String,
    /// What it was called when the text was written.
    pub(crate) hint: String,
    /// LVM wrote to the group while it was away, and trusts it no more.
    pub(crate) missing: bool,
}

#[derive(Debug, PartialEq)]
enum Token {
    /// A key, a section's name or a number.
    Word(String),
    Text(String),
    Mark(char),
}

/// The text's words; it stops where the text does.
struct Tokens<'a>(std::str::Chars<'a>);

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            let rest = self.0.as_str();
            let letter = self.0.next()?;
            match letter {
                '#' => while self.0.next().is_some_and(|letter| letter != '\n') {},
                '"' => return Some(Token::Text(self.quoted())),
                '{' | '}' | '[' | ']' | '=' | ',' => return Some(Token::Mark(letter)),
                _ if letter.is_whitespace() => {}
                _ => {
                    let ends = |c: char| c.is_whitespace() || "{}[]=,\"#".contains(c);
                    let word = &rest[..rest.find(ends).unwrap_or(rest.len())];
                    self.0 = rest[word.len()..].chars();
                    return Some(Token::Word(word.to_owned()));
                }
            }
        }
    }
}

impl Tokens<'_> {
    fn quoted(&mut self) -> String {
        let mut text = String::new();
        while let Some(letter) = self.0.next() {
            match letter {
                '"' => break,
                '\\' => text.extend(self.0.next()),
                other => text.push(other),
            }
        }
        text
    }
}

impl Metadata {
    /// None for a text that is no group's. Nothing behind the group's disks is read: what follows
    /// grows with its volumes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut tokens = Tokens(text.chars());
        let mut found = Self::default();
        let mut path: Vec<String> = Vec::new();
        let mut key = String::new();
        loop {
            match tokens.next()? {
                Token::Word(word) => key = word,
                Token::Mark('{') => {
                    match path.len() {
                        0 => found.name.clone_from(&key),
                        1 if key == "logical_volumes" => break,
                        2 if path[1] == "physical_volumes" => {
                            found.members.push(Member::default());
                        }
                        _ => {}
                    }
                    path.push(std::mem::take(&mut key));
                }
                Token::Mark('}') => {
                    path.pop()?;
                    if path.is_empty() {
                        break;
                    }
                }
                Token::Mark('=') => found.set(&path, &key, values(&mut tokens)?),
                Token::Text(_) | Token::Mark(_) => return None,
            }
        }
        let whole = |uuid: &String| uuid.len() == 32;
        let members = found.members.iter().all(|member| whole(&member.uuid));
        (!found.name.is_empty() && whole(&found.uuid) && members).then_some(found)
    }

    fn set(&mut self, path: &[String], key: &str, values: Vec<String>) {
        let first = values.first().cloned().unwrap_or_default();
        let has = |word: &str| values.iter().any(|value| value == word);
        match (path, key) {
            ([_], "id") => self.uuid = bare(&first),
            ([_], "seqno") => self.seqno = first.parse().unwrap_or(0),
            ([_], "system_id") => self.system_id = first,
            ([_], "lock_type") if first != "none" => self.lock_type = first,
            ([_], "status") => self.exported = has("EXPORTED"),
            ([_], "tags") => self.tags = values,
            ([_, section, _], key) if section == "physical_volumes" => {
                let Some(member) = self.members.last_mut() else {
                    return;
                };
                match key {
                    "id" => member.uuid = bare(&first),
                    "device" => member.hint = first,
                    "status" | "flags" => member.missing |= has("MISSING"),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// What stands behind `=`: one value, or several in brackets.
fn values(tokens: &mut Tokens<'_>) -> Option<Vec<String>> {
    match tokens.next()? {
        Token::Word(value) | Token::Text(value) => Some(vec![value]),
        Token::Mark('[') => {
            let mut all = Vec::new();
            loop {
                match tokens.next()? {
                    Token::Word(value) | Token::Text(value) => all.push(value),
                    Token::Mark(',') => {}
                    Token::Mark(']') => return Some(all),
                    Token::Mark(_) => return None,
                }
            }
        }
        Token::Mark(_) => None,
    }
}
