// Cache groups, RFC 9875.
// A group is one of the whole origin, which all tests share: each has its own.
const after = (id, name, request, type, invalidated = id) => {
  const response_headers = [['Cache-Control', 'max-age=10000'], ['Cache-Groups', `"${id}"`]];
  return {
    name,
    id: `groups-${id}`,
    kind: 'optimal',
    requests: [
      { filename: 'grouped', response_headers, setup: true },
      { response_headers: [['Cache-Group-Invalidation', `"${invalidated}"`]], setup: true, ...request },
      { filename: 'grouped', response_headers, expected_type: type },
    ],
  };
};
const post = { request_method: 'POST', request_body: 'abc' };

export default {
  name: 'Cache Groups',
  id: 'groups',
  description: 'Which responses make a group invalid.',
  tests: [
    after('post', 'An optimal HTTP cache invalidates a group after `POST`', post, 'not_cached'),
    after(
      'post-409',
      'An optimal HTTP cache invalidates a group whatever the status',
      { ...post, response_status: [409, 'Conflict'] },
      'not_cached',
    ),
    after('other', 'An optimal HTTP cache leaves other groups alone', post, 'cached', 'another'),
    after('get', 'An optimal HTTP cache leaves a group alone after `GET`', {}, 'cached'),
  ],
};
