//! `actpass-gateway key`.

use std::io::{self, BufRead};

use actpass_protocol::Secret;
use clap::{Subcommand, ValueEnum};

use super::{Failure, print};
use crate::auth::{self, ApiKeyHash, MAX_KEY_BYTES, MIN_KEY_CHARACTERS, Role};

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Read a key from standard input and print its hash for the settings
    Hash,
    /// Generate a random key and print it with its hash for the settings
    New {
        /// Role of the key
        #[arg(long, value_enum, default_value_t)]
        role: RoleArgument,
    },
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum RoleArgument {
    #[default]
    Agent,
    Approver,
    Auditor,
    Operator,
}

impl From<RoleArgument> for Role {
    fn from(role: RoleArgument) -> Self {
        match role {
            RoleArgument::Agent => Self::Agent,
            RoleArgument::Approver => Self::Approver,
            RoleArgument::Auditor => Self::Auditor,
            RoleArgument::Operator => Self::Operator,
        }
    }
}

impl KeyCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Hash => hash_key(),
            Self::New { role } => new_key(role.into()),
        }
    }
}

fn new_key(role: Role) -> Result<(), Failure> {
    let key = auth::generate(role).map_err(Failure::new)?;
    print(format_args!("{}\n{}", key.expose(), hash_line(&ApiKeyHash::of(key.expose()))))
}

fn hash_key() -> Result<(), Failure> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(Failure::new)?;
    let key = Secret::from(line);
    let key = key.expose().trim();
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem =
            format!("expected a key on standard input: 1 to {MAX_KEY_BYTES} visible ASCII characters");
        return Err(Failure::Failed(problem));
    }
    let distinct = key.bytes().collect::<std::collections::HashSet<_>>().len();
    if key.len() < MIN_KEY_CHARACTERS || distinct < MIN_KEY_CHARACTERS / 4 {
        eprintln!(
            "warning: this key is guessable: {} characters, {distinct} distinct; use a random key of at \
            least {MIN_KEY_CHARACTERS} characters from `key new`",
            key.len()
        );
    }
    print(hash_line(&ApiKeyHash::of(key)))
}

fn hash_line(hash: &ApiKeyHash) -> String {
    format!("hash = \"{hash}\"")
}
