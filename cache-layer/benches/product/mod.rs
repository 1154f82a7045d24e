//! The value of the benches with typed values: 150 bytes of JSON.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: u64,
    name: String,
    price: String,
    category: String,
    description: String,
    stock: u32,
}

pub(crate) fn product(id: u64) -> Product {
    Product {
        id,
        name: format!("Product {id}"),
        price: "19.99".to_owned(),
        category: "electronics".to_owned(),
        description: "A lamp that is bright, and a little brighter still".to_owned(),
        stock: 40,
    }
}
