// What the proxy says of its explanations, each made just before its request was answered.

const SUM = /^(?<compared>\d+) answers compared, (?<differing>\d+) differ, (?<alone>\d+) left alone$/;
/** At least this share of the answers is compared. The others had another request or load beside them. */
const LEAST = 0.9;

/** Prints what one store's proxy said; true if every answer that was compared is as it was explained, and most were compared. */
export function explanations(store, said, print = console.log) {
  const sum = SUM.exec(said.at(-1) ?? '')?.groups;
  for (const line of said.filter((line) => !SUM.test(line))) print(`EXPLAINED OTHERWISE on ${store}: ${line}`);
  if (!sum) {
    print(`explanations on ${store}: the proxy did not say how many answers it compared`);
    return false;
  }
  const [compared, differing, alone] = [sum.compared, sum.differing, sum.alone].map(Number);
  print(`explanations on ${store}: ${compared} answers compared, ${differing} differ, ${alone} left alone`);
  return differing === 0 && compared > 0 && compared >= LEAST * (compared + alone);
}
