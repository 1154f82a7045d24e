//! Which products a list shows.

use axum::{
    extract::{FromRequestParts, Query},
    http::{StatusCode, request::Parts},
};
use percent_encoding::percent_decode;
use utoipa::IntoParams;

use crate::{
    problem::{Invalid, Problem},
    product,
};

/// The parameters of a list, checked.
#[derive(Debug, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only products of this category.
    #[param(required = false, example = "books")]
    pub(super) category: Option<String>,
    /// Which page, from 1.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 4_294_967_295i64, default = 1)]
    pub(super) page: u32,
    /// Products on a page.
    #[param(required = false, minimum = 1, maximum = 100, default = 20)]
    pub(super) per_page: u32,
}

impl ListQuery {
    /// Parameters that mean nothing here are ignored.
    fn from_pairs(pairs: Vec<(String, String)>) -> Result<Self, Vec<Invalid>> {
        let mut reader = Reader { pairs, errors: Vec::new() };
        let query = Self {
            // A form sends an empty field for "any".
            category: reader
                .take("category", |text| match text {
                    "" => Ok(None),
                    text => product::category(text).map(Some),
                })
                .flatten(),
            page: reader.take("page", |text| number(text, u32::MAX)).unwrap_or(1),
            per_page: reader.take("per_page", |text| number(text, 100)).unwrap_or(20),
        };
        if reader.errors.is_empty() { Ok(query) } else { Err(reader.errors) }
    }

    pub(super) fn offset(&self) -> i64 {
        (i64::from(self.page) - 1) * i64::from(self.per_page)
    }
}

struct Reader {
    pairs: Vec<(String, String)>,
    errors: Vec<Invalid>,
}

impl Reader {
    /// `None` if the parameter is absent or wrong.
    fn take<T>(&mut self, name: &'static str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let mut values = self.pairs.iter().filter(|(key, _)| key == name);
        let (_, value) = values.next()?;
        let read = match values.next() {
            None => read(value),
            Some(_) => Err("must be given only once".to_owned()),
        };
        read.map_err(|detail| self.errors.push(Invalid::parameter(name, detail))).ok()
    }
}

fn number(text: &str, max: u32) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|number| (1..=max).contains(number))
        .ok_or_else(|| format!("must be a whole number from 1 to {max}"))
}

impl<S: Send + Sync> FromRequestParts<S> for ListQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // The decoder would insert a replacement character, and the response answer another query.
        let query = parts.uri.query().unwrap_or_default();
        if percent_decode(query.as_bytes()).decode_utf8().is_err() {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "the query is not UTF-8, percent-encoded"));
        }
        let Query(pairs) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
        Self::from_pairs(pairs).map_err(Problem::invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<ListQuery, Vec<Invalid>> {
        let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        ListQuery::from_pairs(pairs.collect())
    }

    #[test]
    fn the_first_page_of_everything_is_the_default() {
        let default = ListQuery { category: None, page: 1, per_page: 20 };
        assert_eq!(read(&[]).as_ref(), Ok(&default));
        assert_eq!(read(&[("category", ""), ("utm", "x")]).as_ref(), Ok(&default));
    }

    #[test]
    fn the_last_page_there_can_be_has_an_offset() {
        let query = read(&[("page", "4294967295"), ("per_page", "100")]).unwrap();
        assert_eq!(query.offset(), 429_496_729_400);
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        let errors = read(&[("page", "0"), ("per_page", "101"), ("category", "\0")]).unwrap_err();
        assert_eq!(
            errors,
            [
                Invalid::parameter("category", "must not contain control characters"),
                Invalid::parameter("page", "must be a whole number from 1 to 4294967295"),
                Invalid::parameter("per_page", "must be a whole number from 1 to 100"),
            ]
        );
        for wrong in ["", "-1", "1.0", "one", "4294967296"] {
            assert!(read(&[("page", wrong)]).is_err(), "{wrong}");
        }
        assert_eq!(
            read(&[("page", "1"), ("page", "2")]).unwrap_err(),
            [Invalid::parameter("page", "must be given only once")]
        );
    }
}
