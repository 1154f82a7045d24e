-- One dialect for SQLite and PostgreSQL.

CREATE TABLE products (
    id          BIGINT PRIMARY KEY,
    name        TEXT   NOT NULL,
    price_cents BIGINT NOT NULL CHECK (price_cents >= 0),
    category    TEXT   NOT NULL,
    stock       BIGINT NOT NULL CHECK (stock >= 0)
);

CREATE INDEX products_by_category ON products (category, id);

-- The last id given out. The two databases share no syntax for an identity column, and an id must
-- never be given twice: a cache or a bookmark may still hold the deleted product.
CREATE TABLE product_ids (last BIGINT NOT NULL);
INSERT INTO product_ids (last) VALUES (0);
