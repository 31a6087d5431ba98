package org.actpass

import kotlin.coroutines.AbstractCoroutineContextElement
import kotlin.coroutines.CoroutineContext

/** Identifies a client and the clients derived from it. */
internal class Family

/** The goal, user, passport, mode and audience of a scope. */
internal data class Bound(
    val goal: String? = null,
    val userId: String? = null,
    val passport: String? = null,
    val mode: Mode? = null,
    val audience: String? = null,
) {
    /** [action] with the members of this scope that it does not set. */
    fun complete(action: Action): Action =
        action.copy(
            // A tool without its own goal.
            goal = action.goal.ifEmpty { goal.orEmpty() },
            userId = action.userId ?: userId,
            passport = action.passport ?: passport,
            mode = action.mode ?: mode,
            audience = action.audience ?: audience,
        )
}

/** The scopes of a coroutine, by the family of their client. */
internal class Scopes(val bound: Map<Family, Bound>) : AbstractCoroutineContextElement(Scopes) {
    companion object Key : CoroutineContext.Key<Scopes>
}
