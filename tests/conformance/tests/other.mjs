// What is about one message alone: RFC 10036, prefetches; and RFC 9110 where the suite is silent.
const FRESH = ['Cache-Control', 'max-age=10000'];

export default {
  name: 'Other',
  id: 'other-new',
  description: 'Incremental messages, refused prefetches, refused codings, several ranges.',
  tests: [
    {
      name: 'HTTP cache should not store an incremental response',
      id: 'incremental-response',
      kind: 'check',
      requests: [
        { response_headers: [FRESH, ['Incremental', '?1']], setup: true },
        { expected_type: 'not_cached' },
      ],
    },
    {
      name: 'HTTP cache should not reuse an error that was the answer to a prefetch',
      id: 'prefetch-refused',
      kind: 'check',
      requests: [
        {
          request_headers: [['Sec-Purpose', 'prefetch']],
          response_status: [403, 'Forbidden'],
          response_headers: [FRESH],
          setup: true,
        },
        { expected_type: 'not_cached' },
      ],
    },
    {
      name: 'An optimal HTTP cache answers several ranges in parts',
      id: 'ranges-several',
      kind: 'optimal',
      requests: [
        { response_headers: [FRESH], response_body: '01234567890A', setup: true },
        {
          request_headers: [['Range', 'bytes=0-1,4-5']],
          expected_type: 'cached',
          expected_status: 206,
          expected_response_text: null,
        },
      ],
    },
  ],
};
