// QUERY, RFC 10008: "the cache key ... MUST incorporate the request content and related metadata" (section 2.7).
const FRESH = [['Cache-Control', 'max-age=10000']];
const JSON_TYPE = [['Content-Type', 'application/json']];

const query = (more = {}) => ({
  request_method: 'QUERY',
  request_headers: JSON_TYPE.map((header) => [...header]),
  request_body: '{"a":1}',
  response_headers: FRESH,
  ...more,
});
const setup = (more = {}) => query({ setup: true, ...more });

const tests = [
  {
    name: 'An optimal HTTP cache reuses a response to `QUERY` for the same content',
    id: 'query-same',
    kind: 'optimal',
    requests: [setup(), query({ expected_type: 'cached' })],
  },
  {
    name: 'An optimal HTTP cache ignores the case of the media type of a `QUERY`',
    id: 'query-type-case',
    kind: 'optimal',
    depends_on: ['query-same'],
    requests: [setup(), query({ request_headers: [['Content-Type', 'Application/JSON']], expected_type: 'cached' })],
  },
  {
    name: 'HTTP cache must not reuse a response to `QUERY` for other content',
    id: 'query-content',
    requests: [setup(), query({ request_body: '{"a":2}', expected_type: 'not_cached' })],
  },
  {
    name: 'HTTP cache must not reuse a response to `QUERY` for content of another type',
    id: 'query-type',
    requests: [setup(), query({ request_headers: [['Content-Type', 'text/plain']], expected_type: 'not_cached' })],
  },
];

for (const [name, value] of [['Content-Language', 'de'], ['Content-Encoding', 'gzip'], ['Content-Location', '/x']]) {
  tests.push({
    name: `HTTP cache must not reuse a response to \`QUERY\` for content with another \`${name}\``,
    id: `query-${name.toLowerCase()}`,
    requests: [setup(), query({ request_headers: [...JSON_TYPE, [name, value]], expected_type: 'not_cached' })],
  });
}

tests.push(
  {
    name: 'HTTP cache must not reuse a response to `QUERY` for `GET`',
    id: 'query-get',
    requests: [setup(), { expected_type: 'not_cached' }],
  },
  {
    name: 'HTTP cache must not reuse a response to `GET` for `QUERY`',
    id: 'query-after-get',
    requests: [{ response_headers: FRESH, setup: true }, query({ expected_type: 'not_cached' })],
  },
  {
    name: 'HTTP cache must not invalidate a response to `GET` after a `QUERY`',
    id: 'query-safe',
    kind: 'optimal',
    requests: [{ response_headers: FRESH, setup: true }, setup(), { expected_type: 'cached' }],
  },
  {
    name: 'An optimal HTTP cache revalidates a stale response to `QUERY`',
    id: 'query-validate',
    kind: 'optimal',
    depends_on: ['query-same'],
    requests: [
      setup({ response_headers: [['Cache-Control', 'max-age=2'], ['ETag', '"abc"']], pause_after: true }),
      query({ expected_type: 'etag_validated' }),
    ],
  },
  {
    name: 'HTTP cache must select by `Vary` among responses to the same `QUERY`',
    id: 'query-vary',
    requests: [
      setup({
        request_headers: [...JSON_TYPE, ['Foo', '1']],
        response_headers: [...FRESH, ['Vary', 'Foo']],
      }),
      query({ request_headers: [...JSON_TYPE, ['Foo', '2']], expected_type: 'not_cached' }),
    ],
  },
);

for (const method of ['POST', 'PUT', 'DELETE', 'M-SEARCH']) {
  tests.push({
    name: `HTTP cache must invalidate responses to \`QUERY\` after a successful response to a \`${method}\` request`,
    id: `query-invalidate-${method}`,
    requests: [
      setup(),
      { request_method: method, request_body: 'abc', setup: true },
      query({ expected_type: 'not_cached' }),
    ],
  });
}

export default {
  name: 'QUERY',
  id: 'query',
  description: 'How caches key responses to QUERY (RFC 10008).',
  tests,
};
