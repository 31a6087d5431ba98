package org.actpass

import java.io.File
import java.math.BigDecimal
import java.math.BigInteger
import java.net.URI
import java.net.URL
import java.nio.file.Path
import java.time.Instant
import java.time.ZonedDateTime
import java.time.temporal.Temporal
import java.time.temporal.TemporalAmount
import java.util.Date
import java.util.Optional
import java.util.UUID
import kotlin.time.Duration
import org.actpass.bridge.NativeJson
import org.actpass.bridge.NativeStep
import org.actpass.bridge.nativeParseJson

// JSON as Kotlin maps, lists, strings, numbers, booleans and null, plus types with an obvious JSON form.

/** The maximum nesting of arrays and objects; the core rejects deeper values. */
private const val MAX_DEPTH = 128

/** Serializes [value]; [member] is its name in messages. */
internal fun json(member: String, value: Any?): String = buildString { write(Place(member), value, 0) }

/** The path of a value: the argument and the steps from it. */
private class Place private constructor(private val member: String, private val outer: Place?, private val step: NativeStep?) {
    constructor(member: String) : this(member, null, null)

    fun item(at: Int) = Place(member, this, NativeStep.Index(at.toULong()))

    fun member(name: String) = Place(member, this, NativeStep.Key(name))

    fun error(problem: String): ActPassException {
        val steps = generateSequence(this) { it.outer }.mapNotNull { it.step }.toList()
        return argumentError(member, problem, steps.asReversed())
    }
}

/** Serializes a result; null if it is not JSON or if a collection of the program throws. */
internal fun jsonOrNull(value: Any?): String? =
    try {
        json("result", value)
    } catch (_: Throwable) {
        null
    }

private fun StringBuilder.write(place: Place, value: Any?, depth: Int) {
    when (value) {
        null -> append("null")
        is CharSequence -> writeString(place, value.toString())
        is Char -> writeString(place, value.toString())
        is Boolean -> append(value)
        is Enum<*> -> writeString(place, value.name)
        is Double -> writeFinite(place, value, value.isFinite())
        is Float -> writeFinite(place, value, value.isFinite())
        is Int, is Long, is Short, is Byte, is BigInteger, is BigDecimal -> append(value)
        is UInt, is ULong, is UShort, is UByte -> append(value)
        is Map<*, *> -> reading(place) { writeMembers(place, value, depth) }
        is Collection<*> -> writeItems(place, value, depth)
        is Array<*> -> writeItems(place, value.asIterable(), depth)
        is IntArray -> writeItems(place, value.asIterable(), depth)
        is LongArray -> writeItems(place, value.asIterable(), depth)
        is ShortArray -> writeItems(place, value.asIterable(), depth)
        is DoubleArray -> writeItems(place, value.asIterable(), depth)
        is FloatArray -> writeItems(place, value.asIterable(), depth)
        is BooleanArray -> writeItems(place, value.asIterable(), depth)
        is Optional<*> -> write(place, value.orElse(null), depth)
        is Duration -> {
            if (value.isInfinite()) throw place.error("expected a finite duration, found $value")
            writeString(place, value.toIsoString())
        }
        else -> {
            val text = textOf(value) ?: throw place.error(problemOf(value))
            // All ISO 8601 parsers accept four-digit years.
            if (text.startsWith('+') || text.startsWith('-')) throw place.error("expected a date of the years 0 to 9999, found $text")
            writeString(place, text)
        }
    }
}

/** The text of a value that is sent as a string; null for other values. */
private fun textOf(value: Any): String? =
    when (value) {
        is UUID, is URI, is URL, is Instant, is kotlin.time.Instant -> value.toString()
        // A zone name in brackets is not part of ISO 8601.
        is ZonedDateTime -> value.toOffsetDateTime().toString()
        is Date -> Instant.ofEpochMilli(value.time).toString()
        is Temporal, is TemporalAmount -> value.toString().takeIf { value.javaClass.name.startsWith("java.time.") }
        else -> null
    }

private fun problemOf(value: Any): String {
    val hint =
        when (value) {
            is ByteArray, is CharArray -> "write it as text first, for instance in Base64"
            is Path, is File -> "pass its toString()"
            is Iterable<*>, is Sequence<*>, is Iterator<*> -> "convert it with toList()"
            is Function<*> -> "call it, and pass its result"
            else -> "convert it to a map, or write it with a JSON library and pass Action.parseArgs(text)"
        }
    return "expected a value that is JSON, found ${typeOf(value)}; $hint"
}

private fun StringBuilder.writeMembers(place: Place, members: Map<*, *>, depth: Int) {
    append('{')
    if (depth <= MAX_DEPTH) {
        members.entries.forEachIndexed { at, (key, item) ->
            if (at > 0) append(',')
            val name = keyOf(key) ?: throw place.error("expected strings as keys, found ${typeOf(key)}")
            writeString(place, name)
            append(':')
            write(place.member(name), item, depth + 1)
        }
    }
    append('}')
}

private fun StringBuilder.writeItems(place: Place, items: Iterable<*>, depth: Int): Unit =
    reading(place) {
        append('[')
        if (depth <= MAX_DEPTH) {
            items.forEachIndexed { at, item ->
                if (at > 0) append(',')
                write(place.item(at), item, depth + 1)
            }
        }
        append(']')
    }

/** Names the collection that throws while it is read. */
private inline fun reading(place: Place, read: () -> Unit) {
    try {
        read()
    } catch (error: ActPassException) {
        throw error
    } catch (_: ConcurrentModificationException) {
        throw place.error("expected a value that does not change while it is serialized, found one that changed")
    } catch (error: RuntimeException) {
        throw place.error("expected a value that can be read, found a collection that threw ${error.javaClass.name}").apply { initCause(error) }
    }
}

private fun StringBuilder.writeFinite(place: Place, value: Number, isFinite: Boolean) {
    if (!isFinite) throw place.error("expected a finite number, found $value")
    append(value)
}

/** UTF-8 cannot represent a lone surrogate. */
private fun StringBuilder.writeString(place: Place, text: String) {
    append('"')
    for ((at, char) in text.withIndex()) {
        val isLone =
            (char.isHighSurrogate() && text.getOrNull(at + 1)?.isLowSurrogate() != true) ||
                (char.isLowSurrogate() && text.getOrNull(at - 1)?.isHighSurrogate() != true)
        when {
            isLone -> throw place.error("expected text in Unicode, found a lone surrogate")
            char == '"' -> append("\\\"")
            char == '\\' -> append("\\\\")
            char == '\n' -> append("\\n")
            char == '\r' -> append("\\r")
            char == '\t' -> append("\\t")
            char == '\b' -> append("\\b")
            char == '\u000c' -> append("\\f")
            char < ' ' -> append("\\u").append(char.code.toString(16).padStart(4, '0'))
            else -> append(char)
        }
    }
    append('"')
}

private fun keyOf(key: Any?): String? =
    when (key) {
        is String -> key
        is Enum<*> -> key.name
        else -> null
    }

private fun typeOf(value: Any?): String = value?.javaClass?.name ?: "null"

/** The members of an object; empty for another value. */
internal fun members(json: String): Map<String, Any?> {
    @Suppress("UNCHECKED_CAST")
    return parse("json", json) as? Map<String, Any?> ?: emptyMap()
}

/** Parses JSON text; [member] is its name in messages. */
internal fun parse(member: String, text: String): Any? = enter { nativeParseJson(member, text.wellFormed(member)) }.value()

private fun NativeJson.value(): Any? =
    when (this) {
        is NativeJson.Array -> items.map { it.value() }
        is NativeJson.Bool -> value
        is NativeJson.Null -> null
        is NativeJson.Number -> if (text.any { it in ".eE" }) text.toBigDecimal() else text.toLongOrNull() ?: text.toBigInteger()
        is NativeJson.Object -> members.associate { it.name to it.value.value() }
        is NativeJson.Text -> value
    }
