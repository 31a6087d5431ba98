//! Text encoding for PostgreSQL.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// Text to store. PostgreSQL text cannot contain U+0000, but client data may.
///
/// U+0000 is stored as a backslash and a zero, a backslash as two backslashes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a>(pub(super) &'a str);

impl ToSql for Text<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self.0.contains(['\\', '\0']) {
            true => self.0.replace('\\', "\\\\").replace('\0', "\\0").to_sql(ty, out),
            false => self.0.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        <&str as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}

/// Text stored by [`Text`].
pub(super) struct StoredText(pub(super) String);

impl<'a> FromSql<'a> for StoredText {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let kept = <&str as FromSql>::from_sql(ty, raw)?;
        if !kept.contains('\\') {
            return Ok(Self(kept.to_owned()));
        }
        let mut text = String::with_capacity(kept.len());
        let mut characters = kept.chars();
        while let Some(character) = characters.next() {
            text.push(match character {
                '\\' => match characters.next() {
                    Some('0') => '\0',
                    Some('\\') => '\\',
                    Some(_) | None => return Err("incomplete escape sequence".into()),
                },
                other => other,
            });
        }
        Ok(Self(text))
    }

    fn accepts(ty: &Type) -> bool {
        <&str as FromSql>::accepts(ty)
    }
}
