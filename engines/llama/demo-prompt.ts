/** A long text without repetition, the same every time: chunks of it are all different. */

const subjects = ['The agent', 'An engine', 'The scheduler', 'A tenant', 'The operator', 'A request', 'The router', 'A worker'];
const verbs = ['keeps', 'reads', 'writes', 'drops', 'checks', 'moves', 'counts', 'leases'];
const objects = ['a chunk', 'the prefix', 'its memory', 'the journal', 'a folder', 'the tail', 'every block', 'the catalog'];
const places = ['in RAM', 'on the disk', 'behind the door', 'at the node', 'before the crash', 'after the restart', 'in order', 'at once'];

/** Words of a sentence of ours give one token each at the least, so this text has `tokenCount` tokens in any vocabulary. */
export function demoPrompt(tokenCount: number): string {
  const sentences: string[] = [];
  for (let number = 0, words = 0; words <= tokenCount; number += 1) {
    const pick = (list: readonly string[], divisor: number): string => list[Math.floor(number / divisor) % list.length] ?? '';
    const sentence = `${pick(subjects, 1)} number ${number} ${pick(verbs, 3)} ${pick(objects, 5)} ${pick(places, 7)}.`;
    sentences.push(sentence);
    words += sentence.split(' ').length;
  }
  return sentences.join(' ');
}
