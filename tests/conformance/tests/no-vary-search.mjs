// No-Vary-Search, draft-ietf-httpbis-no-vary-search-10.
const fresh = (field) => [['Cache-Control', 'max-age=10000'], ['No-Vary-Search', field]];

const pair = (kind, id, name, field, stored, asked, type) => ({
  name,
  id: `no-vary-search-${id}`,
  kind,
  requests: [
    { query_arg: stored, response_headers: fresh(field), setup: true },
    { query_arg: asked, expected_type: type },
  ],
});
const same = (...test) => pair('optimal', ...test, 'cached');
const other = (...test) => pair('required', ...test, 'not_cached');

export default {
  name: 'No-Vary-Search',
  id: 'no-vary-search',
  description: 'Which queries caches take for one by `No-Vary-Search`.',
  tests: [
    same('params', 'An optimal HTTP cache ignores a parameter in `params`', 'params=("utm")', 'id=1&utm=a', 'utm=b&id=1'),
    same('order', 'An optimal HTTP cache ignores the order with `key-order`', 'key-order', 'a=1&b=2', 'b=2&a=1'),
    same('except', 'An optimal HTTP cache ignores all but what is in `except`', 'except=("id")', 'id=1&x=1', 'y=1&id=1'),
    same('decoded', 'An optimal HTTP cache compares decoded parameters', 'key-order', 'a=%20', 'a=+'),
    other('value', 'HTTP cache must not ignore a parameter that is not in `params`', 'params=("utm")', 'id=1', 'id=2'),
    other('no-order', 'HTTP cache must not ignore the order without `key-order`', 'params=("utm")', 'a=1&b=2', 'b=2&a=1'),
    other('same-name', 'HTTP cache must not ignore the order of values of one name', 'key-order', 'a=1&a=2', 'a=2&a=1'),
    other('case', 'HTTP cache must not ignore the case of names', 'params=("utm")', 'id=1&UTM=a', 'id=1'),
    other('token', 'HTTP cache must not use a field with a Token in a list', 'params=(utm)', 'id=1&utm=a', 'id=1'),
    other('both', 'HTTP cache must not use a field with `params` and `except`', 'params=("a"), except=("b")', 'a=1&b=1', 'b=1'),
    other('broken', 'HTTP cache must not use a field with a broken `key-order`', 'params=("a"), key-order=1', 'a=1', 'a=2'),
    other('former', 'HTTP cache must not read the former spelling', 'params, except=("id")', 'id=1&x=1', 'id=1&x=2'),
    {
      name: 'An optimal HTTP cache invalidates what answers a URI after a successful response to `POST` for that',
      id: 'no-vary-search-invalidate',
      kind: 'optimal',
      depends_on: ['no-vary-search-params'],
      requests: [
        { query_arg: 'id=1&utm=a', response_headers: fresh('params=("utm")'), setup: true },
        { query_arg: 'id=1&utm=b', request_method: 'POST', request_body: 'abc', setup: true },
        { query_arg: 'id=1&utm=a', expected_type: 'not_cached' },
      ],
    },
  ],
};
