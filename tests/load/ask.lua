-- Which path to ask for next. Arguments: `same`; `distinct START`; `zipf COUNT`; `path`. A third one is the query, or the path; a fourth one what
-- `Accept-Encoding` says; a fifth one the milliseconds between an answer and the next request.
local kind, number, query
local counter, cdf = 0, nil

local threads = 0
function setup(thread)
    thread:set("id", threads)
    threads = threads + 1
end

function init(args)
    kind, number, query = args[1], tonumber(args[2] or "0"), args[3] or ""
    if args[4] and args[4] ~= "" then
        wrk.headers["Accept-Encoding"] = args[4]
    end
    local pause = tonumber(args[5] or "0")
    if pause > 0 then
        function delay() return pause end
    end
    counter = number + id * 100000000
    math.randomseed(4711 + id)
    if kind == "zipf" then
        cdf = {}
        local sum = 0
        for rank = 1, number do
            sum = sum + 1 / rank
            cdf[rank] = sum
        end
    end
end

local function zipf()
    local wanted = math.random() * cdf[number]
    local low, high = 1, number
    while low < high do
        local middle = math.floor((low + high) / 2)
        if cdf[middle] < wanted then low = middle + 1 else high = middle end
    end
    return low
end

function request()
    if kind == "path" then
        return wrk.format("GET", query)
    end
    local name = 1
    if kind == "distinct" then
        counter = counter + 1
        name = counter
    elseif kind == "zipf" then
        name = zipf()
    end
    return wrk.format("GET", "/v/" .. name .. query)
end

function done(summary, latency)
    io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.duration,
        summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout,
        latency:percentile(50), latency:percentile(99), latency.max))
end
