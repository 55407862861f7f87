CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    placed timestamptz NOT NULL DEFAULT now(),
    shipped timestamptz
);
