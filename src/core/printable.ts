/**
 * Text of others, made safe for a line of a terminal or a log: control characters, line separators and direction overrides become
 * escapes, so that a key can neither forge a line nor steer a terminal.
 */
export function printable(text: string): string {
  // eslint-disable-next-line no-control-regex -- the control characters are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (char) => {
    return char === '\n' ? '\\n' : `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}
