package org.actpass

import java.math.BigDecimal
import java.math.BigInteger

// JSON as Kotlin's own maps, lists, strings, numbers, booleans and null.

/** How many arrays and objects may be open at once; what lies deeper the core refuses, and this need not walk through it. */
private const val MAX_DEPTH = 128

/** The JSON text of [value]; [member] is its name in messages. */
internal fun json(member: String, value: Any?): String =
    try {
        buildString { write(member, value, 0) }
    } catch (_: ConcurrentModificationException) {
        throw argumentError(member, "expected a value that stays as it is while it is written, found one that changed")
    }

/** The JSON text of a result, where it is JSON. Whatever a collection of the program's own throws, the result is one. */
internal fun jsonOrNull(value: Any?): String? =
    try {
        json("result", value)
    } catch (_: Throwable) {
        null
    }

private fun StringBuilder.write(member: String, value: Any?, depth: Int) {
    if (depth > MAX_DEPTH) throw argumentError(member, "nested past $MAX_DEPTH levels")
    when (value) {
        null -> append("null")
        is String -> writeString(value)
        is Boolean -> append(value)
        is Double -> writeFinite(member, value, value.isFinite())
        is Float -> writeFinite(member, value, value.isFinite())
        is Int, is Long, is Short, is Byte, is BigInteger, is BigDecimal -> append(value)
        is Map<*, *> -> {
            append('{')
            value.entries.forEachIndexed { at, (key, item) ->
                if (at > 0) append(',')
                if (key !is String) throw argumentError(member, "expected strings as keys, found ${typeOf(key)}")
                writeString(key)
                append(':')
                write("$member.$key", item, depth + 1)
            }
            append('}')
        }
        is Collection<*> -> writeItems(member, value, depth)
        is Array<*> -> writeItems(member, value.asIterable(), depth)
        else -> throw argumentError(member, "expected what is JSON, found ${typeOf(value)}")
    }
}

private fun StringBuilder.writeItems(member: String, items: Iterable<*>, depth: Int) {
    append('[')
    items.forEachIndexed { at, item ->
        if (at > 0) append(',')
        write("$member[$at]", item, depth + 1)
    }
    append(']')
}

private fun StringBuilder.writeFinite(member: String, value: Number, isFinite: Boolean) {
    if (!isFinite) throw argumentError(member, "expected a finite number, found $value")
    append(value)
}

/** A lone surrogate is escaped, for the core to refuse: in UTF-8 it could not be told. */
private fun StringBuilder.writeString(text: String) {
    append('"')
    for ((at, char) in text.withIndex()) {
        val isLone =
            (char.isHighSurrogate() && text.getOrNull(at + 1)?.isLowSurrogate() != true) ||
                (char.isLowSurrogate() && text.getOrNull(at - 1)?.isHighSurrogate() != true)
        when {
            char == '"' -> append("\\\"")
            char == '\\' -> append("\\\\")
            char < ' ' || isLone -> append("\\u").append(char.code.toString(16).padStart(4, '0'))
            else -> append(char)
        }
    }
    append('"')
}

private fun typeOf(value: Any?): String = value?.javaClass?.name ?: "null"

/** The members of an object that the core has read before. */
internal fun members(json: String): Map<String, Any?> {
    @Suppress("UNCHECKED_CAST")
    return Reader(json).value() as? Map<String, Any?> ?: emptyMap()
}

/** Reads a text that the core has checked: one value of at most 128 levels. */
internal class Reader(private val text: String) {
    private var at = 0

    fun value(): Any? {
        skipSpace()
        return when (peek()) {
            '{' -> obj()
            '[' -> array()
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n', END -> word("null", null)
            else -> number()
        }
    }

    private fun obj(): Map<String, Any?> {
        val members = LinkedHashMap<String, Any?>()
        at++
        while (true) {
            skipSpace()
            when (peek()) {
                '"' -> {
                    val key = string()
                    skipSpace()
                    at++
                    members[key] = value()
                }
                ',' -> at++
                else -> {
                    at++
                    return members
                }
            }
        }
    }

    private fun array(): List<Any?> {
        val items = ArrayList<Any?>()
        at++
        while (true) {
            skipSpace()
            when (peek()) {
                ']', END -> {
                    at++
                    return items
                }
                ',' -> at++
                else -> items.add(value())
            }
        }
    }

    private fun string(): String = buildString {
        at++
        while (peek() != '"' && peek() != END) {
            val char = text[at++]
            if (char != '\\' || peek() == END) {
                append(char)
                continue
            }
            when (val escaped = text[at++]) {
                'b' -> append('\b')
                'f' -> append('\u000C')
                'n' -> append('\n')
                'r' -> append('\r')
                't' -> append('\t')
                'u' -> {
                    val unit = text.substring(minOf(at, text.length), minOf(at + 4, text.length))
                    append((unit.toIntOrNull(16) ?: 0xFFFD).toChar())
                    at += 4
                }
                else -> append(escaped)
            }
        }
        at++
    }

    private fun number(): Number? {
        val start = at++
        while (peek() in "+-.eE0123456789") at++
        val digits = text.substring(start, at)
        if (digits.any { it in ".eE" }) return digits.toBigDecimalOrNull()
        return digits.toLongOrNull() ?: digits.toBigIntegerOrNull()
    }

    private fun <T> word(word: String, value: T): T {
        at += word.length
        return value
    }

    private fun skipSpace() {
        while (peek() in " \t\r\n") at++
    }

    /** [END] is no character that stands in JSON text. */
    private fun peek(): Char = text.getOrElse(at) { END }

    private companion object {
        const val END: Char = '\u0000'
    }
}
