import { parseArgs } from 'node:util';

import { STORES } from './stack.mjs';

export const PROFILES = ['safe', 'strict', 'own', 'private'];

/** Throws with one line where something is wrong. */
export function parseOptions(args) {
  const { values } = parseArgs({
    args,
    options: {
      profile: { type: 'string', multiple: true, default: PROFILES },
      store: { type: 'string', multiple: true, default: STORES },
      write: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
      explain: { type: 'boolean', default: false },
      test: { type: 'string', multiple: true, default: [] },
      suite: { type: 'string' },
      proxy: { type: 'string' },
      'client-proxy': { type: 'string' },
      target: { type: 'string' },
    },
  });
  return {
    ...values,
    profile: chosen('--profile', values.profile, PROFILES),
    store: chosen('--store', values.store, STORES),
  };
}

function chosen(option, given, allowed) {
  const names = given.flatMap((value) => value.split(','));
  for (const name of names) {
    if (!allowed.includes(name)) throw new Error(`${option} ${name}: must be one or more of ${allowed.join(',')}`);
  }
  return allowed.filter((name) => names.includes(name));
}
