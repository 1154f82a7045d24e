-- A first catalogue to look at. As a migration it is added once in a database's life.

INSERT INTO products (id, name, price_cents, category, stock)
WITH RECURSIVE numbers (i) AS (
    SELECT 1
    UNION ALL
    SELECT i + 1 FROM numbers WHERE i < 100
)
SELECT
    i,
    'Product ' || i,
    999 + 550 * i,
    CASE i % 3 WHEN 0 THEN 'electronics' WHEN 1 THEN 'clothing' ELSE 'books' END,
    i * 10
FROM numbers;

UPDATE product_ids SET last = 100;
