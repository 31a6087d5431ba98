//! `actpass-gateway passkeys`.

use clap::Subcommand;

use super::vault::{VaultArguments, with_vault};
use super::{Failure, print};
use crate::passkeys::RelyingParty;
use crate::service::read_passkeys;

#[derive(Debug, Subcommand)]
pub(super) enum PasskeysCommand {
    /// Print the passkeys of a tenant as the setting approval_keys of a client, also while the gateway
    /// runs. Check with each person that a passkey is theirs
    Export {
        #[command(flatten)]
        arguments: VaultArguments,
    },
}

impl PasskeysCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self::Export { arguments } = self;
        with_vault(&arguments, async |settings, store, tenant| {
            let issuer = settings.issuer.clone().unwrap_or_else(|| format!("http://{}", settings.listen));
            let site = RelyingParty::of_url(&issuer);
            let site = site.ok_or_else(|| Failure::new("passkeys need a host name: set issuer"))?;
            let passkeys = read_passkeys(store, tenant).await.map_err(Failure::new)?;
            let current: Vec<_> = passkeys.iter().filter(|passkey| !passkey.removed).collect();
            if current.is_empty() {
                return Err(Failure::Failed(format!("tenant {tenant:?} has no passkey")));
            }
            for passkey in &current {
                eprintln!("{}: {} of {}", passkey.key.kid(), passkey.name, passkey.person);
            }
            print(site.keys(tenant, current).to_json())
        })
    }
}
