// Written<T> is T as a JSON file has it: where T has an enum of strings, the file has one of them.
export type Written<T> = T extends string
  ? `${T}`
  : T extends Array<infer U>
    ? Array<Written<U>>
    : T extends object
      ? { [K in keyof T]: Written<T[K]> }
      : T;
