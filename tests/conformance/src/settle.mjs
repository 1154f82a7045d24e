// A pause that took a little too long can turn any test that waits for an entry to become stale.
// So a surprising result counts only if it stays when nothing else is going on.

/**
 * How many surprises of a stack are run again in each of these tries: more were not turned by chance. A pause turns all the tests that
 * wait meanwhile, but only those that were waiting.
 */
const MOST = [100, 25, 25];

/**
 * Runs the surprising tests of each stack again, one at a time, and merges what comes out into `stack.raw`.
 * Returns the surprises that went away: `{ store, id, first, tries }`.
 */
export async function settle(stacks, { expected, score, again }) {
  const first = new Map(stacks.map((stack) => [stack, score(stack.raw)]));
  const tried = new Map(stacks.map((stack) => [stack, new Map()]));
  for (const [index, most] of MOST.entries()) {
    const scores = new Map(stacks.map((stack) => [stack, score(stack.raw)]));
    const rounds = stacks.map(async (stack) => {
      const ids = surprises(scores.get(stack), [...scores.values()], expected);
      if (ids.length > most) return;
      for (const id of ids) {
        stack.raw = { ...stack.raw, ...(await again(stack, id)) };
        tried.get(stack).set(id, index + 1);
      }
    });
    await Promise.all(rounds);
  }
  const last = stacks.map((stack) => score(stack.raw));
  return stacks.flatMap((stack, index) => {
    const remaining = surprises(last[index], last, expected);
    return [...tried.get(stack)]
      .filter(([id]) => !remaining.includes(id))
      .map(([id, tries]) => ({ store: stack.store, id, first: first.get(stack).get(id), tries }));
  });
}

/** What is not as expected or, where nothing is, not the same on every store. */
function surprises(mine, all, expected) {
  return [...mine.keys()].filter((id) => {
    // It follows from another test, which is in this list itself.
    if (mine.get(id) === 'dependency') return false;
    const known = expected?.get(id);
    return known === undefined ? all.some((other) => other.get(id) !== mine.get(id)) : mine.get(id) !== known;
  });
}
