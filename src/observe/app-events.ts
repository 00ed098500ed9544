/** The diagnostic events that tell which app they are of. */
import type { DiagnosticEvents, DiagnosticName } from '../contracts/diagnostics.ts'

export type AppEventName = {
  [Name in DiagnosticName]: DiagnosticEvents[Name] extends { readonly app: string } ? Name : never
}[DiagnosticName]
