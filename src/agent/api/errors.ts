/**
 * Errors across calls: a `DmigrateError` thrown in a handler is the same `DmigrateError` at the caller.
 */
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { DmigrateError, type Fault } from "../../core/errors.ts";
import { ErrorInfoSchema } from "../../gen/dmigrate/v1/types_pb.js";
import { errorFromWire, SAME_RELEASE } from "../../wire/failure.ts";

/** For callers that know nothing of our codes. */
const CODES: Record<Fault, Code> = {
  user: Code.FailedPrecondition,
  host: Code.Aborted,
  peer: Code.Aborted,
  bug: Code.Internal,
};

/** What a server's library answers before any handler is called. */
const NOT_UNDERSTOOD: readonly Code[] = [Code.Unimplemented, Code.InvalidArgument, Code.ResourceExhausted];

/** Puts code and message of an error into the detail that callers read. */
export function toConnectError(thrown: unknown): ConnectError {
  const { code, message, fault } = DmigrateError.from(thrown);
  return new ConnectError(message, CODES[fault], undefined, [{ desc: ErrorInfoSchema, value: { code, message } }], thrown);
}

/**
 * Makes the error again that a handler threw. Errors of the transport become CANCELLED, TIMEOUT, PROTOCOL, or what `lost` makes of a
 * connection that failed.
 */
export function fromConnectError(thrown: unknown, lost: (error: unknown) => DmigrateError, signal?: AbortSignal): DmigrateError {
  if (thrown instanceof DmigrateError) return thrown;
  const error = ConnectError.from(thrown);
  const [info] = error.findDetails(ErrorInfoSchema);
  if (info !== undefined) return errorFromWire(info.code, info.message);
  if (signal?.aborted === true) return DmigrateError.from(signal.reason, "CANCELLED");
  if (error.code === Code.DeadlineExceeded) {
    return new DmigrateError("TIMEOUT", `The agent did not answer in time: ${error.rawMessage}; see its log`, error);
  }
  if (NOT_UNDERSTOOD.includes(error.code)) {
    return new DmigrateError("PROTOCOL", `The agent did not understand the call: ${error.rawMessage}; ${SAME_RELEASE}`, error);
  }
  return lost(error);
}

/** On a server: every handler's errors through `toConnectError`. */
export function errorInterceptor(onError: (error: DmigrateError) => void): Interceptor {
  const translate = (thrown: unknown): ConnectError => {
    onError(DmigrateError.from(thrown));
    return toConnectError(thrown);
  };
  return (next) => async (request) => {
    try {
      const response = await next(request);
      return response.stream ? { ...response, message: translated(response.message, translate) } : response;
    } catch (thrown) {
      throw translate(thrown);
    }
  };
}

async function* translated<T>(messages: AsyncIterable<T>, translate: (thrown: unknown) => ConnectError): AsyncGenerator<T, void> {
  try {
    yield* messages;
  } catch (thrown) {
    throw translate(thrown);
  }
}
