/**
 * For how long a client of the lab waits for its server before that is a fault.
 */
export const CONNECT_LIMIT_MS = 1000;
export const RECONNECT_PAUSE_MS = 50;
/** A server that has just been started. */
export const FIRST_CONNECT_LIMIT_MS = 20_000;
/** Longer than TCP ever waits between two retransmissions (TCP_RTO_MAX, 120 s), however long the server was out of reach before. */
export const ANSWER_LIMIT_MS = 130_000;
