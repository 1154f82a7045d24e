//! What a product is, and what it takes to become one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{price::Price, problem::Invalid};

const MAX_NAME: usize = 200;
const MAX_CATEGORY: usize = 50;
const MAX_STOCK: i64 = 1_000_000_000;

/// A product of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Product {
    #[schema(minimum = 1, example = 42)]
    pub(crate) id: i64,
    #[schema(example = "Product 42")]
    pub(crate) name: String,
    /// Always written with two decimals.
    #[schema(value_type = f64, example = 240.99)]
    pub(crate) price: Price,
    #[schema(example = "electronics")]
    pub(crate) category: String,
    #[schema(minimum = 0, example = 420)]
    pub(crate) stock: i64,
}

/// A product as a client sends it: the service chooses the id.
#[derive(Clone, Debug, PartialEq, Eq, ToSchema)]
pub(crate) struct ProductInput {
    #[schema(min_length = 1, max_length = 200, example = "Kettle")]
    pub(crate) name: String,
    /// At most two decimals.
    #[schema(value_type = f64, minimum = 0, maximum = 99_999_999.99, example = 19.99)]
    pub(crate) price: Price,
    #[schema(min_length = 1, max_length = 50, example = "electronics")]
    pub(crate) category: String,
    #[schema(minimum = 0, maximum = 1_000_000_000, example = 7)]
    pub(crate) stock: i64,
}

/// A category and how many products it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Category {
    #[schema(example = "electronics")]
    pub(crate) name: String,
    #[schema(minimum = 1, example = 33)]
    pub(crate) products: i64,
}

impl ProductInput {
    /// Reads a product from the fields of a JSON object, or lists everything that is wrong with them. A replacement of the
    /// product `id` may contain that id, as responses do; a new product can't.
    pub(crate) fn from_fields(fields: Fields, id: Option<i64>) -> Result<Self, Vec<Invalid>> {
        let mut reader = Reader { fields, errors: Vec::new() };
        reader.check_id(id);
        let name = reader.take("name", |json| label(&text(json)?, MAX_NAME));
        let price = reader.take("price", str::parse::<Price>);
        let category = reader.take("category", |json| category(&text(json)?));
        let stock = reader.take("stock", stock);
        let errors = reader.finish();

        match (name, price, category, stock) {
            (Some(name), Some(price), Some(category), Some(stock)) if errors.is_empty() => {
                Ok(Self { name, price, category, stock })
            }
            _ => Err(errors),
        }
    }

    pub(crate) fn with_id(self, id: i64) -> Product {
        Product { id, name: self.name, price: self.price, category: self.category, stock: self.stock }
    }
}

/// The fields of a JSON object, each value still as its JSON text.
pub(crate) type Fields = BTreeMap<String, Box<RawValue>>;

struct Reader {
    fields: Fields,
    errors: Vec<Invalid>,
}

impl Reader {
    fn take<T, E: ToString>(&mut self, name: &str, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let value = match self.fields.remove(name) {
            Some(json) => read(json.get()).map_err(|error| error.to_string()),
            None => Err("is required".to_owned()),
        };
        value.map_err(|detail| self.errors.push(Invalid::field(name, detail))).ok()
    }

    fn check_id(&mut self, id: Option<i64>) {
        let Some(json) = self.fields.remove("id") else { return };
        match id {
            Some(id) if json.get() == id.to_string() => {}
            Some(id) => self.errors.push(Invalid::field("id", format!("must be {id}, as in the path, or left out"))),
            None => self.errors.push(Invalid::field("id", "must be left out: the service chooses it")),
        }
    }

    /// A field left over is a mistyped one more often than not.
    fn finish(mut self) -> Vec<Invalid> {
        let unknown = self.fields.keys();
        self.errors.extend(unknown.map(|name| Invalid::field(name, "is not a field of a product")));
        self.errors
    }
}

/// What may be the name of a category, in a product and in a query.
pub(crate) fn category(text: &str) -> Result<String, String> {
    label(text, MAX_CATEGORY)
}

fn label(text: &str, max: usize) -> Result<String, String> {
    let length = text.chars().count();
    if text.trim().is_empty() {
        Err("must not be blank".to_owned())
    } else if length > max {
        Err(format!("must have at most {max} characters, not {length}"))
    } else if text.contains(char::is_control) {
        Err("must not contain control characters".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

fn text(json: &str) -> Result<String, String> {
    serde_json::from_str(json).map_err(|_| "must be a string".to_owned())
}

fn stock(json: &str) -> Result<i64, String> {
    json.parse()
        .ok()
        .filter(|count| (0..=MAX_STOCK).contains(count))
        .ok_or_else(|| format!("must be a whole number from 0 to {MAX_STOCK}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<ProductInput, Vec<Invalid>> {
        ProductInput::from_fields(serde_json::from_str(json).unwrap(), None)
    }

    #[test]
    fn a_product_is_read() {
        assert_eq!(
            read(r#"{"stock": 3, "name": "Té \"verde\"", "price": 4.5, "category": "food"}"#),
            Ok(ProductInput {
                name: "Té \"verde\"".to_owned(),
                price: "4.50".parse().unwrap(),
                category: "food".to_owned(),
                stock: 3,
            })
        );
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let errors = read(r#"{"name": " ", "price": "19.99", "stock": -1, "colour": "red"}"#);
        assert_eq!(
            errors,
            Err(vec![
                Invalid::field("name", "must not be blank"),
                Invalid::field("price", "must be a number such as 19.99, without an exponent"),
                Invalid::field("category", "is required"),
                Invalid::field("stock", "must be a whole number from 0 to 1000000000"),
                Invalid::field("colour", "is not a field of a product"),
            ])
        );
    }

    #[test]
    fn an_answer_can_be_sent_back_and_no_other_id() {
        let product = read(r#"{"name": "Pot", "price": 4.50, "category": "kitchen", "stock": 3}"#).unwrap().with_id(42);
        let answer = serde_json::to_string(&product).unwrap();
        let read = |json: &str, id| ProductInput::from_fields(serde_json::from_str(json).unwrap(), id);
        assert_eq!(read(&answer, Some(42)).unwrap().with_id(42), product);

        let another = Invalid::field("id", "must be 43, as in the path, or left out");
        assert_eq!(read(&answer, Some(43)), Err(vec![another.clone()]));
        for id in ["\"43\"", "43.0", "null", "[43]"] {
            assert_eq!(read(&answer.replace("42", id), Some(43)), Err(vec![another.clone()]), "{id}");
        }
        assert_eq!(read(&answer, None), Err(vec![Invalid::field("id", "must be left out: the service chooses it")]));
    }

    #[test]
    fn a_label_has_bounds() {
        assert!(label(&"é".repeat(200), 200).is_ok());
        assert!(label(&"é".repeat(201), 200).is_err());
        // PostgreSQL has no such text.
        assert!(category("bo\0oks").is_err());
    }

    #[test]
    fn stock_is_a_whole_number() {
        assert_eq!(stock("0"), Ok(0));
        for wrong in ["1.0", "1e2", "\"1\"", "null", "1000000001", "[]"] {
            assert!(stock(wrong).is_err(), "{wrong}");
        }
    }
}
