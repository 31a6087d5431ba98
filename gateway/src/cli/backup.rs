//! `actpass-gateway backup`.

use std::path::Path;

use super::source::DataSource;
use super::{Failure, print};
use crate::store::{Location, backup};

pub(super) fn make_backup(to: &Path, source: DataSource) -> Result<(), Failure> {
    let Location::File(data) = source.location()? else {
        return Err(Failure::new("the data is in PostgreSQL: back it up with pg_dump or pg_basebackup"));
    };
    let copied = backup(&data, to).map_err(Failure::new)?;
    print(format_args!("{}: {} events in {} chains, all intact", to.display(), copied.events, copied.chains))
}
